"""Score matching for the tilt: X_1 from a buffer of end points, X_t from the noising kernel, a regression for the control.

With m = Phi_t X_t and R_t = Var[X_1 | X_t] of the Gaussian N(0, s^2), g = u / gain + g_base is the conditional mean, over
X_1 ~ p*, of either of
    A = (X_1 - m) / R                        conditional (variance -> infinity as t -> 1)
    B = grad r(X_1) + g_base(1, X_1)         novel (finite variance at every t)
hence of every gamma A + (1 - gamma) B. All forms here are this one with a gamma; target score matching is
gamma = -beta^2 / (alpha^2 s^2). Loss: E[ (R + q) |g_theta - gamma A - (1 - gamma) B|^2 / max(1, 1 - gamma)^2 ], R uniform in
its logarithm.

A Gaussian base has g_base = 0, and B is minus its lean adjoint. Any other base is itself a tilt of that Gaussian, by a reward
whose gradient is g_base(1, x) = grad log p_base(x) + x / s^2 and whose g is g_base(t, x) = (D(x, t) - m) / R. So p* is a tilt
of the Gaussian by both rewards together, the forms above give its g, and the control is what the base lacks of it.

X_1 ~ p* is reached by weights of the stored path, or on-policy as the fixed point (then gamma < 1 is needed: with
gamma = 1 every control reproduces itself).
Sources: De Bortoli et al. (2024), arXiv 2402.08667 (target score matching and mixing); arXiv 2402.06320 (novel);
Domingo-Enrich, Du, Albergo (2026), arXiv 2605.00229; Havens et al. (2025), arXiv 2504.11713 (replay, adjoint sampling).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import batching, families, frames, validate, weights
from tiltjax.losses.collect import ON_POLICY_RATE, EndPoints, draw_level, end_points, label_end, nothing
from tiltjax.losses.rejuvenation import Rejuvenation, check, rejuvenated
from tiltjax.problems import is_centred, level_bin
from tiltjax.types import Batch, Family, Held, Here, Key, Learned, Mixture, Network, Objective, Problem, Regression, Replay

REPLAY = Replay(num_particles=2000, capacity=20_000, gradient_steps=100, batch_size=512, weighting=weights.tempered(0.2))
ON_POLICY = Replay(num_particles=200, capacity=2000, gradient_steps=10, batch_size=512)
CLIP = 10.0


@validate.needs("memoryless", "gradient")
def mixture_score_matching(
    problem: Problem | Family,
    network: Network,
    times: Array,
    *,
    mixture: Mixture | None = None,
    replay: Replay = REPLAY,
    clip: float = CLIP,
    rejuvenation: Rejuvenation | None = None,
) -> Objective:
    """Any gamma_t, a `Mixture` (default: gamma = R / (R + q), q the problem's resolution). `times` is the grid of the paths.

    rejuvenation: moves of the end points under p* before they are learned from; they need the density of the base.
    """
    family = families.of(problem)
    check(families.example(problem), rejuvenation)
    mixture = at_resolution(problem) if mixture is None else mixture

    def target(params: Learned, here: Here, key: Key, t: Array, end: EndPoints) -> tuple[Array, Array]:
        x = frames.noised(problem.frame, t, end.x, jax.random.normal(key, end.x.shape))
        m, residual, gain = _coordinates(problem, t, x)
        gamma = mixture.weight(params.extra, t)
        g = gamma * (end.x - m) / residual + (1 - gamma) * end.slope
        return x, gain * (g - here.problem.process.g_base(t, x))

    def term(params: Learned, here: Here, key: Key, t: Array, end: EndPoints) -> Array:
        x, u = target(params, here, key, t, end)
        _, residual, gain = _coordinates(problem, t, x)
        # below gamma = 0 the target is extrapolated, and its variance with it
        scale = gain * jnp.maximum(1.0, 1 - mixture.weight(params.extra, t))
        error = (network.control(params.control, here)(t, x) - u) / scale
        return jnp.sum((residual + problem.resolution) * jnp.square(error))

    def loss(held: Held, key: Key, batch: Batch) -> Array:
        def one(params: Learned, key: Key, end: EndPoints, context: Any) -> Array:
            key_time, key_noise = jax.random.split(key)
            return term(params, family.here(held.given, context), key_noise, draw_level(problem, key_time)[0], end)

        keys = jax.random.split(key, batch.data.x.shape[0])
        return batching.mean(one, held.params, (keys, batch.data, batch.context), network.at_once)

    def collect(here: Here, held: Held, key: Key, n: int) -> tuple[Batch, Any]:
        batch = end_points(here, network, times, held, key, n, clip)
        if rejuvenation is not None:  # the paths have the keys folded with 0 to n - 1
            batch = rejuvenated(here.problem, rejuvenation, batch, jax.random.fold_in(key, n), clip)
        return batch, held.carried

    evaluations = 1 + (0 if rejuvenation is None else rejuvenation.evaluations)
    return Objective(
        mixture.init,
        collect,
        loss,
        replay,
        regression=Regression(target, term),
        energy_evaluations=evaluations,
        gradient_evaluations=evaluations,
        family=family,
        label=label_end(clip),
    )


@validate.needs("memoryless")
def conditional_score_matching(
    problem: Problem | Family, network: Network, times: Array, *, replay: Replay = REPLAY, clip: float = CLIP
) -> Objective:
    """gamma = 1: denoising score matching on weighted end points. Needs no gradient of the reward, only its value.

    Raises ValueError when unweighted: on its own samples every control is a fixed point, so it would learn nothing.
    """
    if replay.weighting is None or replay.weighting is weights.unweighted:
        raise ValueError(
            "conditional_score_matching needs weights: without them every control is a fixed point of it (it learns "
            "to reproduce its own samples); got an unweighted replay. "
            "Pass replay with weighting=weights.tempered(0.2) or weights.truncated."
        )
    return mixture_score_matching(problem, network, times, mixture=constant(1.0), replay=replay, clip=clip)


@validate.needs("memoryless", "gradient")
def target_score_matching(
    problem: Problem | Family, network: Network, times: Array, *, replay: Replay = REPLAY, clip: float = CLIP
) -> Objective:
    """gamma = -beta^2 / (alpha^2 s^2), s* = E[grad log p*(X_1) | X_t] / alpha: its variance is infinite as t -> 0.

    gamma is bounded at -GAMMA_MAX, and the loss weighted by 1 / (1 - gamma)^2, for that. When not to use it: broad targets with
    narrow modes.
    """
    path, scale = problem.frame.path, problem.frame.scale

    def weight(extra: None, t: Array) -> Array:
        return -jnp.minimum(path.noise2(t) / jnp.maximum(path.signal2(t) * scale**2, 1e-12), GAMMA_MAX)

    return mixture_score_matching(problem, network, times, mixture=Mixture(nothing, weight), replay=replay, clip=clip)


GAMMA_MAX = 100.0


@validate.needs("memoryless", "gradient")
def novel_score_matching(
    problem: Problem | Family, network: Network, times: Array, *, replay: Replay = REPLAY, clip: float = CLIP
) -> Objective:
    """gamma = 0: u target = sigma_t Phi_t grad r(X_1), finite variance at every t."""
    objective = mixture_score_matching(problem, network, times, mixture=constant(0.0), replay=replay, clip=clip)
    return objective._replace(learning_rate=1e-3)


@validate.needs("memoryless", "gradient")
def adjoint_sampling(
    problem: Problem | Family,
    network: Network,
    times: Array,
    *,
    replay: Replay = ON_POLICY,
    clip: float = 3.0,
) -> Objective:
    """Adjoint Sampling (Havens et al. 2025, arXiv 2504.11713): the novel form on an unweighted buffer of its own samples.

    On a Gaussian base the regression target is minus the lean adjoint, a_t = -Phi_t grad r(X_1) in closed form; many gradient
    steps an energy evaluation. A control that is off by e makes labels that are off by -e R / q within a mode of variance q, so
    solving the regression before collecting anew overshoots: hence a short buffer, a small learning rate, and a tighter clip.
    When not to use it: separated modes (nothing holds on to a mode that the control forgets).
    """
    return novel_score_matching(problem, network, times, replay=replay, clip=clip)._replace(learning_rate=ON_POLICY_RATE)


@validate.needs("memoryless", "gradient")
def minimum_variance(
    problem: Problem | Family,
    network: Network,
    times: Array,
    *,
    replay: Replay = REPLAY,
    clip: float = CLIP,
    rejuvenation: Rejuvenation | None = None,
    bins: int = 24,
) -> Objective:
    """The default: the gamma of least variance, by time bin and coordinate, learned by the same regression.

    gamma = R / (R + q'), log q' a table (by time bin alone for systems of particles). E|g - target|^2 = |g - g*|^2 +
    Var[target], so its minimum over gamma is the minimum-variance mixture gamma_t = E[(B - g)(B - A)] / E[(B - A)^2]. Within a
    Gaussian mode of variance v it is exact with 1/q' = 1/v - 1/s^2, and has no variance at all.
    """
    mixture = learned(problem, bins)
    return mixture_score_matching(problem, network, times, mixture=mixture, replay=replay, clip=clip, rejuvenation=rejuvenation)


def constant(gamma: float) -> Mixture:
    """The same gamma at every time."""
    return Mixture(nothing, lambda extra, t: jnp.asarray(gamma, jnp.result_type(t)))


def at_resolution(problem: Problem | Family) -> Mixture:
    """gamma = R / (R + q): least variance when every mode has the variance q of the problem's resolution."""
    residual = problem.frame.residual
    return scheduled(lambda t: residual(t) / (residual(t) + problem.resolution))


def scheduled(gamma: Callable[[Array], Array]) -> Mixture:
    """gamma(t), a function of time."""
    return Mixture(nothing, lambda extra, t: gamma(t))


def learned(problem: Problem | Family, bins: int, rate: float = 30.0) -> Mixture:
    """gamma = R / (R + q') with log q' = log q + rate * table[bin of log R]; `rate` sets its speed against the network's."""
    residual, where = problem.frame.residual, level_bin(problem, bins)
    # one for all coordinates of a system of particles: a target that turns with them
    shape = () if is_centred(problem) else tuple(problem.frame.shape)

    def init() -> Array:
        return jnp.zeros((bins, *shape))

    def weight(table: Array, t: Array) -> Array:
        log_r = jnp.log(jnp.maximum(residual(t), 1e-30))
        return jax.nn.sigmoid(log_r - jnp.log(problem.resolution) - rate * table[where(t)])

    return Mixture(init, weight)


def _coordinates(problem: Problem | Family, t: Array, x: Array) -> tuple[Array, Array, Array]:
    frame = problem.frame
    return frame.response(t) * x, frame.residual(t), frame.gain(t)
