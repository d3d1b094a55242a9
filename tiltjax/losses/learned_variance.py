"""Steps whose variance is learned beside the control, for any loss on end points."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import batching, families, frames, problems, validate
from tiltjax.losses.collect import EndPoints, draw_level
from tiltjax.losses.score_matching import minimum_variance
from tiltjax.types import Batch, Family, Held, Here, Key, Learned, Network, Objective, Params, Problem, Regression

LEAST = 1e-3  # ratio of variances
RATE = 10.0  # the table's speed against the network's
PART = 1e-3  # of the table in the loss: the optimizer's steps do not see it, and the cut of the gradient's norm should not


class Extra(NamedTuple):
    """What the inner loss learns beside the network; log ratio / RATE by time bin (and coordinate)."""

    inner: Params
    table: Array


@validate.needs("memoryless")
def learned_variance(
    problem: Problem | Family,
    network: Network,
    times: Array,
    *,
    loss: Callable[..., Objective] = minimum_variance,
    bins: int = 96,
    **options: Any,
) -> Objective:
    """`loss`, on paths whose steps have the variance of least KL divergence from the tilt's (`processes.narrowed`):

        ratio_t = E*[(X_1 - D(X_t, t))^2] / R_t,   D = m + R_t (u / gain + g_base),

    a table by time bin and coordinate (by time bin alone for particles), fitted by the likelihood of X_1 around the control's
    own prediction D: a term (ratio* / ratio + log ratio) / 2. It leaves E[w] = Z at any number of steps, and takes from the
    weights what the base's own variance puts there, about d / N where the target is much narrower than the base: it counts
    where dimensions are many and steps few.

    loss: a constructor whose batches hold `EndPoints`, of the score matching family (TypeError for others when it is first
    evaluated); options: its own.
    When not to use it: where a state of one time knows its mode and another does not yet, the average is of little use to both:
    in the plane there is not much to gain.
    Source: Bao et al. (2022), arXiv 2201.06503 (optimal variances); Nichol, Dhariwal (2021), arXiv 2102.09672 (learned ones).
    """
    inner, family = loss(problem, network, times, **options), families.of(problem)
    where = problems.level_bin(problem, bins)
    likelihood = _likelihood(problem, network, where)
    shape = (bins,) if problems.is_centred(problem) else (bins, *problem.frame.shape)

    def label(held: Held, key: Key, here: Here, x1: Array) -> Any:
        return validate.label(inner)(held._replace(params=_inner(held.params)), key, here, x1)

    def collect(here: Here, held: Held, key: Key, n: int) -> tuple[Batch, Any]:
        return inner.collect_on(here, held._replace(params=_inner(held.params)), key, n)

    def both(held: Held, key: Key, batch: Batch) -> Array:
        if not isinstance(batch.data, EndPoints):
            raise TypeError(
                "learned_variance needs a loss on end points, of the score matching family; got one on "
                f"{type(batch.data).__name__}."
            )
        key_loss, key_table = jax.random.split(key)
        keys = jax.random.split(key_table, batch.data.x.shape[0])

        def one(params: Learned, key: Key, end: EndPoints, context: Any) -> Array:
            return likelihood(params, family.here(held.given, context), key, end)

        table = batching.mean(one, held.params, (keys, batch.data, batch.context), network.at_once)
        return inner.loss(held._replace(params=_inner(held.params)), key_loss, batch) + PART * table

    return inner._replace(
        init=lambda: Extra(inner.init(), jnp.zeros(shape)),
        collect_on=collect,
        loss=both,
        regression=_regression(inner.regression),
        problem=lambda problem, extra: problems.narrowed(problem, ratio(extra)),
        label=label,
    )


def _likelihood(problem: Problem | Family, network: Network, where: Callable[[Array], Array]) -> Callable[..., Array]:
    """(params, here, key, end) -> (ratio* / ratio + log ratio) / 2 of X_1 around the control's own prediction."""
    frame = problem.frame

    def likelihood(params: Learned, here: Here, key: Key, end: EndPoints) -> Array:
        key_time, key_noise = jax.random.split(key)
        t, _ = draw_level(problem, key_time)
        x = frames.noised(frame, t, end.x, jax.random.normal(key_noise, end.x.shape))
        residual = frame.residual(t)
        u = jax.lax.stop_gradient(network.control(params.control, here)(t, x))
        g = u / frame.gain(t) + here.problem.process.g_base(t, x)
        off = jnp.square(end.x - frame.response(t) * x - residual * g) / residual
        log_ratio = RATE * params.extra.table[where(t)]
        return 0.5 * jnp.mean(off * jnp.exp(-log_ratio) + log_ratio)

    return likelihood


def ratio(extra: Extra) -> Array:
    """Var*[X_1 | X_t] / R_t by time bin (and coordinate), as it was learned."""
    return jnp.maximum(jnp.exp(RATE * extra.table), LEAST)


def _inner(params: Learned) -> Learned:
    """The inner loss's."""
    return Learned(params.control, params.extra.inner)


def _regression(inner: Regression | None) -> Regression | None:
    if inner is None:
        return None
    target, term = inner
    return Regression(lambda params, *rest: target(_inner(params), *rest), lambda params, *rest: term(_inner(params), *rest))
