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


ControlFn = Callable[[Array, Array], Array]  # (t, x) -> u: a control with its parameters


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


class Frame(NamedTuple):
    """The Gaussian N(0, scale^2 I) on a path: what a process and its networks measure by (`frames`). Static, no arrays.

    `response` Phi_t (E[X_1 | X_t = x] = Phi_t x), `residual` R_t = Var[X_1 | X_t], `gain` sqrt(-dR/dt), `fall(t, t')` is
    R_t - R_t' without cancellation, `variance` S_t of X_t, `widening` d log S / dt.
    """

    path: GaussianPath
    shape: tuple[int, ...]
    scale: float
    response: Callable[[Scalar], Array]
    residual: Callable[[Scalar], Array]
    gain: Callable[[Scalar], Array]
    fall: Callable[[Scalar, Scalar], Array]
    variance: Callable[[Scalar], Array]
    widening: Callable[[Array], Array]


class Process(NamedTuple):
    """A reference process, the base of the tilt: dX = b dt + sigma dB, memoryless, X_1 ~ p_base; a frame and what is in it.

    The base is the frame's Gaussian, or its tilt by g_base(t, x) = (E[X_1 | X_t = x] - Phi_t x) / R_t, known from a model.
    `see(t, x) -> seen` is all that is evaluated of it at a state, once; `g_of(t, x, seen)` is g_base from it.
    `move(t, t', x, seen) -> (mean, std)` is one step; the controlled step is
    X' = mean + std (c + width xi), c = sqrt(clock(t, t')) u(t, x), xi ~ N(0, I).
    `width(t, t')` is 1 but for narrowed steps (`processes.narrowed`); `log_ratio(width, c, xi) -> (a, b)`, by coordinate, is
    what the step takes from log dP_base/dP_u: sum a + sum b / 2. `reverse(t, t', x') -> (mean, std)` is the noising kernel
    X_t | X_t' (the base's own time reversal, kept by every tilt). `marginal_change(t, t', x, x', by_kernels)` is
    log p_t'(x') - log p_t(x): exact where the base has a density, else what the ratio of the base's own kernels says.
    `log_density` is log p_base, where it is known.
    """

    frame: Frame
    initial: Callable[[Key], Array]
    see: Callable[[Array, Array], Any]
    g_of: Callable[[Array, Array, Any], Array]
    move: Callable[[Array, Array, Array, Any], tuple[Array, Array]]
    clock: Callable[[Array, Array], Array]
    width: Callable[[Array, Array], Array]
    log_ratio: Callable[[Array, Array, Array], tuple[Array, Array]]
    reverse: Callable[[Array, Array, Array], tuple[Array, Array]]
    marginal_change: Callable[[Array, Array, Array, Array, Array], Array]
    log_density: LogDensity | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one particle."""
        return self.frame.shape

    def g_base(self, t: Array, x: Array) -> Array:
        """g_base(t, x), of x's shape: 0 for a Gaussian."""
        return self.g_of(t, x, self.see(t, x))

    def transition(self, t: Array, t1: Array, x: Array) -> tuple[Array, Array]:
        """(mean, std) of X_t' | X_t = x without a control."""
        return self.move(t, t1, x, self.see(t, x))


class Dynamics(NamedTuple):
    """How a particle of a problem moves, goes back, and what a step adds to its weight.

    `initial(key) -> X_0`; `start(control, t, x) -> Walker` (with the weight that a fresh particle has there).
    `step(control, t, t', walker, xi) -> (Walker, u)` is one step forward under the control u = control(t, x);
    `finish(walker) -> log w` with E[exp(log w) f(X_1)] = Z E_{p*}[f]. `potential(t, walker) -> log psi_t`, any function that
    says how much a walker is worth beyond its weight so far: SMC resamples by the two together and leaves -potential behind.
    `back(control, t, t', x', xi) -> (x, u, xi_forward)` is one step back, with the control at x and the normals with which the
    controlled forward step makes the same move.

    Of a stored path: `known(path)` is what its weight needs of the density, whatever the control; `recontrolled(control, path)`
    the same states as drawn by another control; `increments(control, path, known) -> (N,)` and `boundary(path, known) -> ()`
    sum to log w, for the control that the path holds (`control` is asked at its end alone); `fluctuations(control, path) ->
    (N,)` is what each step adds to log w beyond what its state implies. `evaluations(num_steps)` of the density and of its
    gradient is what a path and its weight cost.

    `grid(resolution, num_steps) -> times` and `network(centred) -> constructor` are the defaults of `fit`. Facts, for the gate:
    `memoryless`, the noising kernel is the base's own under every control; `unbiased`, E[w] = Z at any number of steps. Where
    there are any: `log_rho(t, x)`, the density that the walkers stand for at t, up to a constant; `rates(t, x)`, what the
    Jarzynski work rate needs of it; `rescaled(factor)`, the same with another noise, where noise is free.
    """

    shape: tuple[int, ...]
    initial: Callable[[Key], Array]
    start: Callable[["ControlFn", Array, Array], "Walker"]
    step: Callable[["ControlFn", Array, Array, "Walker", Array], tuple["Walker", Array]]
    finish: Callable[["Walker"], Array]
    potential: Callable[[Array, "Walker"], Array]
    back: Callable[["ControlFn", Array, Array, Array, Array], tuple[Array, Array, Array]]
    known: Callable[["Path"], Any]
    recontrolled: Callable[["ControlFn", "Path"], "Path"]
    increments: Callable[["ControlFn", "Path", Any], Array]
    boundary: Callable[["Path", Any], Array]
    fluctuations: Callable[["ControlFn", "Path"], Array]
    evaluations: Callable[[int], tuple[int, int]]
    grid: Callable[[float, int], Array]
    network: Callable[[bool], Callable[["Problem"], "Network"]]
    memoryless: bool
    unbiased: bool
    log_rho: Callable[[Array, Array], Array] | None = None
    rates: Callable[[Array, Array], "Rates"] | None = None
    rescaled: Callable[[Array], "Dynamics"] | None = None


class Problem(NamedTuple):
    """The tilt p*(x) proportional to p_base(x) exp(reward(x)), and how its particles move.

    `process` is the base. `motion(process, reward) -> Dynamics` says how particles move: memoryless, annealed, or your own.
    `resolution` is the smallest variance at which p* has structure (it sets the end of the log-SNR grid and the scale of the
    networks); `decode` maps one particle to the user's coordinates (an affine preconditioner undone).
    """

    process: Process
    reward: LogDensity
    resolution: float
    motion: Callable[[Process, LogDensity], Dynamics]
    decode: Callable[[Array], Array] = lambda x: x
    encode: Callable[[Array], Array] = lambda x: x
    target: Target | None = None

    @property
    def dynamics(self) -> Dynamics:
        """The dynamics of this base and this reward."""
        return self.motion(self.process, self.reward)

    @property
    def frame(self) -> Frame:
        """The base's."""
        return self.process.frame


class Here(NamedTuple):
    """What a particle is of: its problem, the arrays that are given to all, its own context."""

    problem: Problem
    given: Any = ()
    context: Any = ()


class Family(NamedTuple):
    """Problems that one sampler serves: `at(given, context) -> Problem`, called inside the traced function.

    `given`: one tree shared by all particles (a model's weights, a data set), an argument of every program. `context`: the
    small tree of one particle (a temperature, a prompt's index, y). `at` closes over neither. `frame`, `resolution` and
    `centred` are static, the same for all contexts. `many`: what is done with several contexts; None of a family of one.
    """

    at: Callable[[Any, Any], Problem]
    frame: Frame
    resolution: float
    given: Any = ()
    many: "Many | None" = None
    centred: bool = False

    def here(self, given: Any, context: Any) -> Here:
        """At a context."""
        return Here(self.at(given, context), given, context)


class Many(NamedTuple):
    """Of a family of more than one: `draw(key) -> context`, and how many particles of a round have one context.

    `features(context) -> (k,)` is what networks see of it. `pairs(key) -> (context, x)`, where there is one, draws a context
    and an exact draw of its p*, in the process's coordinates: training then takes those in the place of its own paths.
    """

    draw: Callable[[Key], Any]
    per_context: int
    features: Callable[[Any], Array]
    pairs: Callable[[Key], tuple[Any, Array]] | None = None


class Network(NamedTuple):
    """A control u_theta: `init(key) -> params`, `apply(params, t, x) -> u`. Zero at initialization.

    sees: apply takes a fourth argument, `here`, the problem, what is given and the context of the particle.
    """

    init: Callable[[Key], Params]
    apply: Callable[..., Array]
    gradient_evaluations: int = 0  # of the density, in one call of apply
    potential: Callable[..., Array] | None = None  # (params, t, x) -> phi, where apply is grad phi
    at_once: int | None = None  # particles in one call of the batched apply, where more are slower; None: any number
    sees: bool = False

    def control(self, params: Params, here: Here) -> ControlFn:
        """(t, x) -> u of one particle."""
        if self.sees:
            return lambda t, x: self.apply(params, t, x, here)
        return lambda t, x: self.apply(params, t, x)


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
    where `fit` starts its schedule, unless it is given another.
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


class Trainer(NamedTuple):
    """`init(given, key) -> TrainState`, `step(given, state) -> (TrainState, Metrics)`: one round of collect and regress.

    `quantities` names what is checked for non-finite values, in the order in which one spoils the next. `learned(state)` is
    what to draw with. For trainers that take turns: `begin(given, key, carried)` is `init` with other carried arrays, and
    `renew(given, state, key, carried)` a new buffer for them, the parameters those of the average. A round makes
    `updates` updates.
    """

    init: Callable[[Any, Key], Any]
    step: Callable[[Any, Any], tuple[Any, "Metrics"]]
    quantities: tuple[str, ...]
    learned: Callable[[Any], "Learned"]
    begin: Callable[[Any, Key, Any], Any]
    renew: Callable[[Any, Any, Key, Any], Any]
    updates: int
    given: Any = ()  # what `run` hands to init and step


# ------------------------------------------------------------------------------------------------- states


class Learned(NamedTuple):
    """What is trained: the control network's parameters, and a loss's own."""

    control: Params
    extra: Params


class Held(NamedTuple):
    """What an objective is handed: what is learned, what is carried from round to round, what is given once and for all."""

    params: Learned
    carried: Any = ()
    given: Any = ()


class Path(NamedTuple):
    """A stored trajectory of N steps: times (N+1,), x (N+1, *shape), control u (N, *shape), noise xi (N, *shape)."""

    times: Array
    x: Array
    control: Array
    noise: Array


class Walker(NamedTuple):
    """A particle on its way: where it is, what was seen of the density there, its drift if that is kept, log w so far."""

    x: Array
    seen: Any
    drift: Any
    log_weight: Array


class Rates(NamedTuple):
    """At one state of an annealed path: work = d/dt r_t + v.grad r_t, and score = s + grad r_t, the score of rho_t."""

    work: Array
    score: Array


class Samples(NamedTuple):
    """Weighted draws: x (n, *shape), log_weight (n,). E[exp(log_weight)] = Z."""

    x: Array
    log_weight: Array


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: Array
    stderr: Array


class Batch(NamedTuple):
    """Collected particles: data (a tree of leaves (n, ...)), log_weight (n,) of their paths, clipped (n,) where a label was.

    context: that of each particle, leaves (n, ...); () of a plain problem.
    """

    data: Any
    log_weight: Array
    clipped: Array
    context: Any = ()


class TrainState(NamedTuple):
    key: Key
    round: Array
    params: Learned
    average: Learned
    opt_state: Any
    carried: Any
    buffer: Any


class Metrics(NamedTuple):
    """Of one round. Counts are of updates (nonfinite: skipped; clipped: scaled down) and of collected particles.

    log_z and ess are those of the newly collected particles' weights: of a family the means over its contexts, and `worst_ess`
    the least of them. `first_bad` indexes `Trainer.quantities`, -1 if all is finite.
    """

    loss: Array
    log_z: Array
    ess: Array
    worst_ess: Array
    gradient_norm: Array
    clipped_updates: Array
    nonfinite_updates: Array
    clipped_particles: Array
    nonfinite_particles: Array
    first_bad: Array


def is_key(x: Any) -> bool:
    """True for a typed PRNG key, as `jax.random.key(0)` makes it."""
    return isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
