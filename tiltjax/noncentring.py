"""Coordinates whose scale depends on others: found on particles, and undone by `Coordinates.slopes`.

The model, for followers i and leaders among the other coordinates, with z the others in units of their own width:
    x_i = mean_i + beta_i.z + sigma_i exp(slopes_i.phi(z)) y_i,   y_i of unit variance,   beta_i = 0 on the leaders
(a mean that followed a leader would miss the neck, ever more of its widths the narrower it is).
Means and betas are estimated by least squares with weights exp(-2 slopes.phi): the neck of a funnel, where it is narrow, says
where it is.
Sources: Papaspiliopoulos, Roberts, Skoeld (2007), Statist. Sci. 22 (non-centring); Harvey (1976), Econometrica 44 (estimator).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from tiltjax.coordinates import CORRELATION_TIME, REACH, Coordinates, spread

LEAST = 0.25  # to lead
ALSO = 0.05  # to follow one that leads
ROUNDS = 6
NECK = 0.02  # of the particles, the narrowest, weigh alike: one alone would say nothing of a slope


class Fit(NamedTuple):
    """Of one follower: its mean, its slope on the others (k,), its scale, the slopes of its log scale (k,)."""

    mean: float
    beta: np.ndarray
    sigma: float
    slopes: np.ndarray


def find(x: np.ndarray) -> Coordinates | None:
    """From particles x (n, d); None where no scale depends on another coordinate."""
    mean = x.mean(0)
    z = (x - mean) / x.std(0)
    alone = z @ np.linalg.pinv(np.cov(z, rowvar=False), hermitian=True)  # what the others do not say of each, linearly
    found = max((_pairs(sizes, z) for sizes in (z, alone)), key=np.sum)
    leaders = np.any(found, axis=0)
    followers = _without_those_that_lose(np.any(found, axis=1), leaders, z)
    if not followers.any():
        return None
    others = np.flatnonzero(~followers)
    width = spread(x[:, others])
    block = np.diag(width) if width.ndim == 1 else width
    z = np.linalg.solve(block, (x[:, others] - mean[others]).T).T
    leads = leaders[others]
    return _assembled(x, others, block, {int(i): _fit(x[:, i], z, leads) for i in np.flatnonzero(followers)})


def _without_those_that_lose(followers: np.ndarray, leaders: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Followers that still follow when only those that neither follow nor lead are known.

    What a hierarchy is centred on is known better where its members are narrow, and seems to follow: the weakest leaves first.
    """
    followers, phi = followers.copy(), _phi(z[:, leaders])
    while followers.any():
        known = z[:, ~followers & ~leaders]
        residual = z[:, followers] - known @ np.linalg.lstsq(known, z[:, followers], rcond=None)[0]
        gain = _gain(residual, phi).max(1)
        if gain.min() >= ALSO:
            break
        followers[np.flatnonzero(followers)[np.argmin(gain)]] = False
    return followers


def _gain(sizes: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """b^2 Var[phi] of log |sizes_i| = a + b phi_j + noise, by least squares."""
    centred, log_size = phi - phi.mean(0), np.log(np.abs(sizes) + 1e-12)
    slope = (log_size - log_size.mean(0)).T @ centred / np.sum(centred**2, axis=0)
    return slope**2 * np.var(phi, axis=0)


def _pairs(sizes: np.ndarray, z: np.ndarray) -> np.ndarray:
    """gain (d, d): by how much, in kT a particle, the log scale of i explained by j improves a Gaussian fit.

    A coordinate leads if it gains LEAST on another, far above what chance or a few separated modes show; others then follow it
    from ALSO on. Whoever leads does not follow, and the best leader comes first.
    """
    gain = _gain(sizes, _phi(z))
    np.fill_diagonal(gain, 0.0)
    kept = np.zeros_like(gain)
    while np.max(gain) >= LEAST:
        leader = int(np.argmax(np.where(gain >= LEAST, gain, 0.0).sum(0)))
        follows = gain[:, leader] >= ALSO
        kept[follows, leader] = gain[follows, leader]
        gain[leader], gain[:, leader], gain[:, follows] = 0.0, 0.0, 0.0
    return kept


def _phi(z: np.ndarray) -> np.ndarray:
    return REACH * np.tanh(z / REACH)


def _fit(x: np.ndarray, z: np.ndarray, leads: np.ndarray) -> Fit:
    """Weighted least squares for the mean, least squares of log |residual| for the scale, in turn."""
    phi, slopes = _phi(z), np.zeros(z.shape[1])
    design = np.concatenate([np.ones((len(x), 1)), phi[:, leads]], axis=1)
    beta = np.zeros(z.shape[1])
    for _ in range(ROUNDS):
        level = phi @ slopes
        weight = np.exp(-2 * np.maximum(level - np.quantile(level, NECK), 0.0))
        mean, beta[~leads] = _regress(x, z[:, ~leads], weight)
        residual = x - mean - z @ beta
        slopes[leads] = np.linalg.lstsq(design, np.log(np.abs(residual) + 1e-12 * np.std(x)), rcond=None)[0][1:]
    return Fit(mean, beta, float(np.std(residual * np.exp(-phi @ slopes))), slopes)


def _regress(x: np.ndarray, z: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray]:
    """x = mean + z.beta by weighted least squares; beta = 0 where it explains no more than chance would."""
    root = np.sqrt(weight / weight.sum())
    mean = float(np.sum(root**2 * x))
    design = np.concatenate([np.ones((len(x), 1)), z], axis=1)
    both = np.linalg.lstsq(design * root[:, None], x * root, rcond=None)[0]
    without, within = np.sum(root**2 * (x - mean) ** 2), np.sum(root**2 * (x - design @ both) ** 2)
    effective = 1 / np.sum(root**4) / CORRELATION_TIME
    if 0.5 * np.log(without / within) < 4 * z.shape[1] / effective:
        return mean, np.zeros(z.shape[1])
    return float(both[0]), both[1:]


def _assembled(x: np.ndarray, others: np.ndarray, block: np.ndarray, fits: dict[int, Fit]) -> Coordinates:
    dim = x.shape[1]
    location, scale, slopes = x.mean(0), np.zeros((dim, dim)), np.zeros((dim, dim))
    scale[np.ix_(others, others)] = block
    for i, fit in fits.items():
        location[i], scale[i, others], scale[i, i], slopes[i, others] = fit.mean, fit.beta, fit.sigma, fit.slopes
    diagonal = np.diagonal(scale)
    flat = np.array_equal(scale, np.diag(diagonal))
    return Coordinates(*(jnp.asarray(part) for part in (location, diagonal if flat else scale, slopes)))
