"""End points moved under the target before a loss learns from them."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import hamiltonian, validate
from tiltjax.losses.collect import EndPoints, clip_slope, end_slope
from tiltjax.types import Batch, Key, LogDensity, Problem


class Rejuvenation(NamedTuple):
    """Hamiltonian moves of the end points of a round, under p* itself: `num_moves` of `leapfrog` steps each.

    A kernel that leaves p* invariant leaves a weighted sample of it one: E[w f(X_1')] = E[w f(X_1)] = Z E_{p*}[f]. So end
    points settle within their modes, whatever the control did, and the weights go on to say which mode counts how much.
    `share` of the particles stay where they are: a control that never sees its own paths go astray lets them. step_size, in
    the particles' widths, is where the adaptation of a round begins.
    When not to use it: energies as dear as the network; a base whose density is not known.
    Sources: Gilks, Berzuini (2001), J. R. Stat. Soc. B 63 (resample-move); Midgley et al. (2022), arXiv 2208.01893, and Sendera
    et al. (2024), arXiv 2402.05098 (moves of the end points of a learned sampler).
    """

    num_moves: int = 20
    leapfrog: int = 5
    share: float = 0.2
    step_size: float = 0.1

    @property
    def evaluations(self) -> int:
        """Of the energy, and as many of its gradient, that the moves cost a collected particle."""
        return math.ceil((1 - self.share) * self.num_moves * (self.leapfrog + 1))


def check(problem: Problem, rejuvenation: Rejuvenation | None) -> None:
    """Raises ValueError for what cannot move: a base without a density, or numbers out of range."""
    if rejuvenation is None:
        return
    validate.density(problem.process, "rejuvenation")
    if min(rejuvenation.num_moves, rejuvenation.leapfrog) < 1 or not 0 <= rejuvenation.share < 1:
        raise ValueError(f"expected one move and leapfrog step or more, and a share in [0, 1); got {rejuvenation}.")


def rejuvenated(problem: Problem, how: Rejuvenation, batch: Batch, key: Key, clip: float) -> Batch:
    """The batch with all but the first `share` of its end points moved, labelled where they are now, weighted as they were."""
    x = batch.data.x
    stay = int(how.share * x.shape[0])
    density = _density(problem)
    flat = x[stay:].reshape(x.shape[0] - stay, -1)
    moved = hamiltonian.moves(key, density, flat, jnp.asarray(how.step_size, x.dtype), how.num_moves, how.leapfrog).x

    def label(x: Array) -> tuple[Array, Array]:
        return clip_slope(problem, end_slope(problem, x)[1], clip)

    there = moved.reshape(-1, *x.shape[1:])
    slope, clipped = jax.vmap(label)(there)
    after = EndPoints(jnp.concatenate([x[:stay], there]), jnp.concatenate([batch.data.slope[:stay], slope]))
    return batch._replace(data=after, clipped=jnp.concatenate([batch.clipped[:stay], clipped]))


def _density(problem: Problem) -> LogDensity:
    """log p* + log Z of a particle as a vector."""
    base, shape = validate.density(problem.process, "rejuvenation"), problem.process.shape

    def density(x: Array) -> Array:
        x = x.reshape(shape)
        return problem.reward(x) + base(x)

    return density
