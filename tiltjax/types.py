"""Recipes (tuples of functions, closed over) and states (tuples of arrays, passed through `jit`). No logic.

Functions speak of ONE particle of shape `shape`; the library vmaps. Time runs from t = 0 (noise) to t = 1 (data).
Energies and rewards are in units of kT.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
from jax import Array

Key = Array
Params = Any
Scalar = Array | float


class LogDensity(Protocol):
    """x -> log gamma(x), unnormalized: a scalar for one particle of shape `shape`."""

    def __call__(self, x: Array, /) -> Array: ...


class Control(Protocol):
    """(params, t, x) -> u(x, t), of x's shape: the control of dX = (b + sigma u) dt + sigma dB."""

    def __call__(self, params: Params, t: Array, x: Array, /) -> Array: ...


# ------------------------------------------------------------------------------------------------ recipes


class Target(NamedTuple):
    """An unnormalized density gamma, and what is known of it.

    log_density(x) -> scalar for one particle; `sample(key, n) -> (n, *shape)` draws exactly; `mode(x) -> int` names
    the mode that x belongs to, with the true `mode_weights` (K,); `constrain(x)` maps one particle to what the user
    calls it (a dict of named sites, say).

    centred: a configuration x (n, d) of n particles whose log_density does not change when all of them are moved by the same
    vector. Such a density has a finite integral only over centred configurations: sum_i x_i = 0, a space of (n - 1) d
    dimensions with its own Lebesgue measure, on which log_z is meant and draws come.
    """

    log_density: LogDensity
    shape: tuple[int, ...]
    log_z: float | None = None
    sample: Callable[[Key, int], Array] | None = None
    mode: Callable[[Array], Array] | None = None
    mode_weights: Array | None = None
    constrain: Callable[[Array], Any] | None = None
    centred: bool = False


class GaussianPath(NamedTuple):
    """X_t = alpha_t X_1 + beta_t X_0, and every difference of the schedules that a step needs, stable in float32.

    kappa = alpha'/alpha, eta = beta (kappa beta - beta'). The pair (signal, noise) is (alpha, beta) less a common
    factor chosen so that the two never vanish together: alpha^2 = c signal2, beta^2 = c noise2, lift = alpha / c
    (on the Brownian path alpha and beta both vanish at t = 0, their ratios do not).
    `rise(t, t') = signal2' noise2 - signal2 noise2'` is computed without cancellation, and `speed(t)` is its slope at t' = t.
    `time(signal2 / noise2)` inverts the signal-to-noise ratio.
    """

    alpha: Callable[[Scalar], Array]
    beta: Callable[[Scalar], Array]
    kappa: Callable[[Scalar], Array]
    eta: Callable[[Scalar], Array]
    signal2: Callable[[Scalar], Array]
    noise2: Callable[[Scalar], Array]
    lift: Callable[[Scalar], Array]
    rise: Callable[[Scalar, Scalar], Array]
    speed: Callable[[Scalar], Array]
    time: Callable[[Scalar], Array]
    scale: float | None = None  # the standard deviation of X_1 that the path implies (Brownian: sqrt(nu_1))


class Process(NamedTuple):
    """A reference process, the base of the tilt: dX = b dt + sigma dB, memoryless, X_1 ~ p_base.

    `transition(t, t', x) -> (mean, std)` is one step of it; the controlled step is
    X' = mean + std (c + xi), c = sqrt(clock(t, t')) u(t, x), xi ~ N(0, I), and c is all that the path weight needs.
    `shrink(t, t') -> rho`, where there is one, makes it X' = mean + std (c + sqrt(rho) xi) (`processes.narrowed`).
    `reverse(t, t', x') -> (mean, std)` is the noising kernel X_t | X_t' (the base's own time reversal, kept by every tilt).
    Units come from the Gaussian N(0, scale^2 I) on the same path: `response` Phi_t (E[X_1 | X_t = x] = Phi_t x), `residual`
    R_t = Var[X_1 | X_t], `gain` sqrt(-dR/dt). The base is this Gaussian (then `log_density` is known and `slope` is 0), or its
    tilt by slope(t, x) = g_base = (E[X_1 | X_t = x] - Phi_t x) / R_t, known from a model.
    """

    path: GaussianPath
    shape: tuple[int, ...]
    initial: Callable[[Key], Array]
    drift: Callable[[Array, Array], Array]
    backward_drift: Callable[[Array, Array], Array]
    diffusion: Callable[[Array], Array]
    velocity: Callable[[Array, Array], Array]
    score: Callable[[Array, Array], Array]
    slope: Callable[[Array, Array], Array]
    transition: Callable[[Array, Array, Array], tuple[Array, Array]]
    reverse: Callable[[Array, Array, Array], tuple[Array, Array]]
    clock: Callable[[Array, Array], Array]
    scale: float
    response: Callable[[Array], Array]
    residual: Callable[[Array], Array]
    gain: Callable[[Array], Array]
    log_density: LogDensity | None = None
    shrink: Callable[[Array, Array], Array] | None = None


class Anneal(NamedTuple):
    """A tilt path r_t, r_1 = reward: rho_t proportional to p_t exp(r_t) leads from p_0 to p*; and the dynamics along it.

    `tilt(t, x) -> r_t(x)`; `noise(t) -> sigma_t > 0`, any; `log_rho(t, x)` is that of `Fields`, alone. `fields(t, x) -> Fields`
    is all that the two kernels of a step need at one state; `increment(t, t', x, x', fields, fields', g, g')` is the step's
    share of log w under the drift g.
    """

    base: Process
    tilt: Callable[[Array, Array], Array]
    noise: Callable[[Array], Array]
    log_rho: Callable[[Array, Array], Array]
    fields: Callable[[Array, Array], "Fields"]
    increment: Callable[..., Array]


class Problem(NamedTuple):
    """The tilt p*(x) proportional to p_base(x) exp(reward(x)).

    `anneal` is set by `problems.annealed`: then `process` makes the steps of section "annealed" of the docs, and what is
    learned is a drift g beside them, in place of a control u.

    `resolution` is the smallest variance at which p* has structure (it sets the end of the log-SNR grid and the
    scale of the networks); `decode` maps one particle to the user's coordinates (an affine preconditioner undone).
    """

    process: Process
    reward: Callable[[Array], Array]
    resolution: float
    decode: Callable[[Array], Array] = lambda x: x
    encode: Callable[[Array], Array] = lambda x: x
    target: Target | None = None
    anneal: Anneal | None = None


class Network(NamedTuple):
    """A control u_theta: `init(key) -> params`, `apply(params, t, x) -> u`. Zero at initialization."""

    init: Callable[[Key], Params]
    apply: Control
    gradient_evaluations: int = 0  # of the density, in one call of apply
    potential: Callable[[Params, Array, Array], Array] | None = None  # (params, t, x) -> phi, where apply is grad phi
    at_once: int | None = None  # particles in one call of the batched apply, where more are slower; None: any number


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

    `target(params, key, t, item) -> (x, u)` draws X_t = x and the noisy control u, of x's shape, that is regressed on there:
    E[u | t, X_t] = u*(t, X_t) over particles of the tilt. `term(params, key, t, item) -> scalar` is what that pair adds to the
    loss, which is the mean of `term` over particles and over its own law of t.
    """

    target: Callable[["Learned", Key, Array, Any], tuple[Array, Array]]
    term: Callable[["Learned", Key, Array, Any], Array]


class Objective(NamedTuple):
    """A training method: collect, then regress.

    `init() -> extra` are learned quantities beside the network (a log Z, mixture weights; None if there are none).
    `collect(params, key, n) -> Batch` simulates n labelled particles without gradient.
    `loss(params, key, data) -> scalar` is differentiated. params is `Learned(control, extra)`.
    `energy_evaluations` and `gradient_evaluations` are calls of the density and of its gradient, a collected particle.
    `regression` is what `loss` is made of when it regresses the control on labels; None when it does not.
    `learning_rate` is where `fit` starts its schedule, unless it is given another. `ratio(extra) -> (bins, ...)` is what
    `problems.narrowed` makes the steps of draws of; None: the base's own.
    """

    init: Callable[[], Params]
    collect: Callable[["Learned", Key, int], "Batch"]
    loss: Callable[["Learned", Key, Any], Array]
    replay: Replay
    energy_evaluations: int = 1
    gradient_evaluations: int = 1
    weighted: bool = True  # a batch's log_weight is that of its paths
    regression: Regression | None = None
    learning_rate: float = 4e-3
    ratio: Callable[[Params], Array] | None = None


class Trainer(NamedTuple):
    """`init(key) -> TrainState`, `step(state) -> (TrainState, Metrics)`: one round of collect and regress.

    `quantities` names what is checked for non-finite values, in the order in which one spoils the next.
    """

    init: Callable[[Key], "TrainState"]
    step: Callable[["TrainState"], tuple["TrainState", "Metrics"]]
    quantities: tuple[str, ...]


# ------------------------------------------------------------------------------------------------- states


class Learned(NamedTuple):
    """What is trained: the control network's parameters, and a loss's own."""

    control: Params
    extra: Params


class Path(NamedTuple):
    """A stored trajectory of N steps: times (N+1,), x (N+1, *shape), control u (N, *shape), noise xi (N, *shape)."""

    times: Array
    x: Array
    control: Array
    noise: Array


class Fields(NamedTuple):
    """At one state of an annealed path: the base's velocity v and score s, grad r_t, and log rho_t.

    log_rho is r_t + log p_t where the base has a density, r_t where it has none.
    """

    velocity: Array
    score: Array
    slope: Array
    log_rho: Array


class Samples(NamedTuple):
    """Weighted draws: x (n, *shape), log_weight (n,). E[exp(log_weight)] = Z."""

    x: Array
    log_weight: Array


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: Array
    stderr: Array


class Batch(NamedTuple):
    """Collected particles: data (a tree of leaves (n, ...)), log_weight (n,) of their paths, clipped (n,) where a label was."""

    data: Any
    log_weight: Array
    clipped: Array


class TrainState(NamedTuple):
    key: Key
    round: Array
    params: Learned
    average: Learned
    opt_state: Any
    buffer: Any


class Metrics(NamedTuple):
    """Of one round. Counts are of updates (nonfinite: skipped; clipped: scaled down) and of collected particles.

    log_z and ess are those of the newly collected particles' weights. `first_bad` indexes `Trainer.quantities`, -1 if all is
    finite.
    """

    loss: Array
    log_z: Array
    ess: Array
    gradient_norm: Array
    clipped_updates: Array
    nonfinite_updates: Array
    clipped_particles: Array
    nonfinite_particles: Array
    first_bad: Array


def is_key(x: Any) -> bool:
    """True for a typed PRNG key, as `jax.random.key(0)` makes it."""
    return isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
