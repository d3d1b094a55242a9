"""Recipes of training: what a loss is, how particles are reused, what a trainer does."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from jax import Array

from .base import Key, Params
from .recipes import Here
from .states import Batch, Held, Learned, Metrics


class Mixture(NamedTuple):
    """The weight gamma of conditional score matching in a regression target (see `losses.score_matching`).

    `init() -> extra` are its learned parameters (None if there are none); `weight(extra, t) -> gamma` is a scalar or of x's
    shape.
    """

    init: Callable[[], Params]
    weight: Callable[[Params, Array], Array]


class Replay(NamedTuple):
    """How collected particles are reused.

    `num_particles` are collected a round. capacity 0: the batch is used whole, once, and forgotten. Else the newest `capacity`
    are kept, and `gradient_steps` updates a round each draw `batch_size` of them with weights `weighting(log_weight)`.
    """

    num_particles: int
    capacity: int = 0
    gradient_steps: int = 1
    batch_size: int = 0
    weighting: Callable[[Array], Array] | None = None


class Regression(NamedTuple):
    """How a loss regresses the control, at one time t and on one collected particle `item` (an entry of `Batch.data`).

    `target(params, here, key, t, item) -> (x, u)` draws X_t = x and the noisy control u, of x's shape, that is regressed on:
    E[u | t, X_t] = u*(t, X_t) over particles of the tilt. `term(params, here, key, t, item) -> scalar` is what that pair adds
    to the loss, which is the mean of `term` over particles and over its own law of t.
    """

    target: Callable[["Learned", Here, Key, Array, Any], tuple[Array, Array]]
    term: Callable[["Learned", Here, Key, Array, Any], Array]


class Objective(NamedTuple):
    """A training method: collect, then regress.

    `init() -> extra` are learned quantities beside the network (a log Z, mixture weights; None if there are none).
    `collect_on(here, held, key, n) -> (Batch, carried)` simulates n labelled particles of one problem without gradient, and
    says what is carried to the next round. `loss(held, key, batch) -> scalar` is differentiated in held.params.

    `family` are the problems that the objective is for; `problem(problem, extra)` is a problem of it with dynamics made of what
    is learned, for collecting and for draws (default: as it is). `carry(key) -> carried` is what the first round is handed:
    arrays that go from round to round but are not learned (default: none). `label(held, key, here, x1) -> data of one particle`
    makes an item of a draw of p* that is not the sampler's own; None where that cannot be.

    `energy_evaluations` and `gradient_evaluations` are calls of the density and of its gradient, a collected particle.
    `regression` is what `loss` is made of when it regresses the control on labels; None when it does not. `learning_rate` is
    where `fit` starts its schedule, unless it is given another. `identity` is what a checkpoint knows the recipes by.
    """

    init: Callable[[], Params]
    collect_on: Callable[[Here, "Held", Key, int], tuple["Batch", Any]]
    loss: Callable[["Held", Key, "Batch"], Array]
    replay: Replay
    energy_evaluations: int = 1
    gradient_evaluations: int = 1
    weighted: bool = True  # a batch's log_weight is that of its paths
    regression: Regression | None = None
    learning_rate: float = 4e-3
    family: Any = None
    problem: Callable[[Any, Params], Any] = lambda problem, extra: problem
    carry: Callable[[Key], Any] = lambda key: ()
    label: Callable[["Held", Key, Here, Array], Any] | None = None
    identity: str = ""


class Training(NamedTuple):
    """The settings of `fit` that are seldom changed.

    optimizer: a constructor of optax's, called with the schedule, a cosine from learning_rate to 0; or one made already, as it
    stands. learning_rate: None is the loss's own. average: the decay of the averaged parameters, which are the ones to draw
    with (0: no averaging). max_norm: where the gradient's norm is cut (inf: never). replay: None is the loss's own.
    grid: num_steps -> times (num_steps + 1,), None is the problem's own, uniform in log-SNR on a memoryless problem.
    sampling_steps: the default number of steps of draws. location, scale: where the pilot looks for a target, and about how
    wide it is; they matter if it is more than 100 scales away from the location. checkpoint_seconds: the time between two
    saves.
    """

    optimizer: optax.GradientTransformation | Callable[[optax.Schedule], optax.GradientTransformation] = optax.adam
    learning_rate: float | None = None
    average: float = 0.998
    max_norm: float = 1.0
    replay: Replay | None = None
    grid: Callable[[int], Array] | None = None
    sampling_steps: int = 200
    location: Array | float = 0.0
    scale: float = 1.0
    checkpoint_seconds: float = 30.0


class Trainer(NamedTuple):
    """`init(given, key) -> TrainState`, `step(given, state) -> (TrainState, Metrics)`: one round of collect and regress.

    `init(given, key, start)` begins at what was learned before (`Learned`), not at new parameters; None is as without it.
    `quantities` names what is checked for non-finite values, in the order in which one spoils the next. `learned(state)` is
    what to draw with. For trainers that take turns: `begin(given, key, carried, start)` is `init` with other carried arrays,
    and `renew(given, state, key, carried)` a new buffer for them, the parameters those of the average. A round makes
    `updates` updates.
    """

    init: Callable[..., Any]
    step: Callable[[Any, Any], tuple[Any, "Metrics"]]
    quantities: tuple[str, ...]
    learned: Callable[[Any], "Learned"]
    begin: Callable[[Any, Key, Any, Any], Any]
    renew: Callable[[Any, Any, Key, Any], Any]
    updates: int
    given: Any = ()  # what `run` hands to init and step
    start: Learned | None = None  # what `run` hands to init
