"""Lattices and posteriors as targets, against transfer matrices, quadrature and models written out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from tiltjax import targets
from tiltjax.targets.phi4 import magnetization

# -------------------------------------------------------------------------------------------- phi^4


def transfer_log_z(shape: tuple[int, int], hopping: float, quartic: float, axis: np.ndarray) -> float:
    """log tr T^L0 over the grid's rows of L1 sites; T = exp(-V/2 - V'/2 + 2 k phi . phi')."""
    rows = np.array(list(itertools.product(axis, repeat=shape[1])))
    bonds = np.sum(rows * np.roll(rows, 1, 1), 1)
    potential = np.sum((1 - 2 * quartic) * rows**2 + quartic * rows**4, 1) - 2 * hopping * bonds
    transfer = np.exp(-0.5 * (potential[:, None] + potential[None, :]) + 2 * hopping * rows @ rows.T)
    return float(np.log(np.trace(np.linalg.matrix_power(transfer, shape[0]))))


@pytest.mark.parametrize(("shape", "n"), [((2, 2), 16), ((3, 1), 40), ((1, 3), 12), ((2, 1), 60), ((4, 1), 16)])
def test_phi4_bonds_by_transfer_matrix(shape: tuple[int, int], n: int):
    """The sum over all fields on a grid, site by site, and row by row."""
    axis = np.linspace(-3.5, 3.0, n)
    fields = np.array(list(itertools.product(axis, repeat=shape[0] * shape[1]))).reshape(-1, *shape)
    target = targets.phi4(shape, 0.23, 0.05)
    brute = special.logsumexp(np.asarray(jax.jit(jax.vmap(target.log_density))(fields)))
    np.testing.assert_allclose(brute, transfer_log_z(shape, 0.23, 0.05, axis), rtol=1e-12)


def test_phi4_symmetries():
    target = targets.phi4((4, 3))
    phi = np.random.default_rng(0).normal(size=(4, 3))
    value = target.log_density(phi)
    for image in (-phi, np.roll(phi, 1, 0), np.roll(phi, 2, 1), phi[::-1], phi[:, ::-1]):
        np.testing.assert_allclose(target.log_density(image), value, rtol=1e-12)
    np.testing.assert_allclose(targets.phi4((3, 4)).log_density(phi.T), value, rtol=1e-12)
    np.testing.assert_allclose(magnetization(jnp.asarray(phi)), phi.mean(), rtol=1e-12)
    assert int(target.mode(phi)) == int(phi.mean() > 0) == 1 - int(target.mode(-phi))
    # a constant field: two bonds a site
    np.testing.assert_allclose(target.log_density(np.full((4, 3), 2.0)), 12 * (4 * 0.3 * 4 - 0.956 * 4 - 0.022 * 16), rtol=1e-12)


# -------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: targets.phi4((8,)), r"got shape=\(8,\), expected two"),
        (lambda: targets.phi4((8, 0)), "expected two positive lengths"),
        (lambda: targets.phi4(quartic=0.0), "quartic=0.0"),
    ],
)
def test_bad_arguments_say_what_to_do(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
