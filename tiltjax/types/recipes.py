"""Recipes of a problem and of what is learned: tuples of functions, closed over."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from .base import ControlFn, Key, LogDensity, Params, Scalar
from .states import Path, Rates, Walker


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

    `process` is the base. `motion(process, reward, resolution) -> Dynamics` says how particles move: memoryless, annealed, or
    your own.
    `resolution` is the smallest variance at which p* has structure (it sets the end of the log-SNR grid and the scale of the
    networks); `decode` maps one particle to the user's coordinates (an affine preconditioner undone).
    """

    process: Process
    reward: LogDensity
    resolution: float
    motion: Callable[[Process, LogDensity, float], Dynamics]
    decode: Callable[[Array], Array] = lambda x: x
    encode: Callable[[Array], Array] = lambda x: x
    target: Target | None = None

    @property
    def dynamics(self) -> Dynamics:
        """The dynamics of this base and this reward."""
        return self.motion(self.process, self.reward, self.resolution)

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
