"""log Z from weights of both directions, on Gaussian work: log w ~ N(mu -+ s^2 / 2, s^2) satisfies Crooks with log Z = mu."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from tiltjax import diagnostics

MU, S, REPETITIONS = -37.0, 2.0, 200


bennett = jax.jit(diagnostics.bennett)  # one program a shape
crossing = jax.jit(diagnostics.work_crossing, static_argnums=2)


@functools.cache
def work(n_f, n_b, s=S):
    key_f, key_b = jax.random.split(jax.random.key(0))
    forward = MU - s**2 / 2 + s * jax.random.normal(key_f, (REPETITIONS, n_f))
    return forward, MU + s**2 / 2 + s * jax.random.normal(key_b, (REPETITIONS, n_b))


def standardized(estimate):
    z = np.asarray((estimate.value - MU) / estimate.stderr)
    assert abs(z.mean()) < 5 / np.sqrt(REPETITIONS)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / REPETITIONS)
    return z


@pytest.mark.parametrize(("n_f", "n_b"), [(400, 400), (1000, 150), (100, 800)])
def test_bennett_is_unbiased_with_the_standard_error_that_it_says(n_f, n_b):
    forward, backward = work(n_f, n_b)
    both = jax.jit(jax.vmap(bennett))(forward, backward)
    standardized(both)
    alone = jax.vmap(diagnostics.log_z)(forward), jax.vmap(diagnostics.log_z)(-backward)  # E_tilt[1 / w] = 1 / Z
    for one in alone:
        error = np.asarray(one.value) - np.where(one is alone[0], MU, -MU)
        assert float(jnp.mean(both.stderr)) < float(jnp.mean(one.stderr))
        assert np.std(both.value) < np.sqrt(np.mean(error**2))


def test_bennett_solves_bennetts_equation_at_any_distance():
    """Against Brent's method; and two laws so far apart that no sigmoid of theirs is above 1e-300 at the root."""
    forward, backward = (np.asarray(w[0]) for w in work(1000, 150))

    def excess(c):
        shift = np.log(1000 / 150)
        return special.expit(forward - c - shift).sum() - special.expit(shift + c - backward).sum()

    exact = optimize.brentq(excess, MU - 10, MU + 10, xtol=1e-13)
    assert float(bennett(jnp.asarray(forward), jnp.asarray(backward)).value) == pytest.approx(exact, abs=1e-11)
    far = diagnostics.bennett(jnp.asarray([-1e4, -1e4 - 1]), jnp.asarray([1e4, 1e4 + 1]))
    assert float(far.value) == pytest.approx(0.0, abs=1e-6)  # halfway, by symmetry
    # all weights equal: the bracket is a point, and there is nothing to be unsure of
    same = diagnostics.bennett(jnp.full(3, 2.5), jnp.full(7, 2.5))
    np.testing.assert_allclose(same, (2.5, 0.0), atol=1e-15)


def test_bennett_counts_lost_particles_as_draws_of_weight_zero():
    forward, backward = (w[0] for w in work(1000, 150))
    lost = jnp.concatenate([forward, jnp.full(1000, -jnp.inf)])
    nearly = jnp.concatenate([forward, jnp.full(1000, MU - 600.0)])
    np.testing.assert_allclose(bennett(lost, backward), bennett(nearly, backward), rtol=1e-10)
    for bad in (backward.at[3].set(jnp.inf), backward.at[3].set(-jnp.inf), backward.at[3].set(jnp.nan)):
        assert np.isnan(bennett(forward, bad)).all()
    for bad in (forward.at[3].set(jnp.nan), forward.at[3].set(jnp.inf), jnp.full(5, -jnp.inf)):
        assert np.isnan(diagnostics.bennett(bad, backward)).all()


@pytest.mark.parametrize("bins", [10, 60])
def test_the_crossing_is_unbiased_with_the_standard_error_that_it_says(bins):
    """At s = 1: also of 10 bins, 0.8 s wide, where the middle of a bin is not where its draws are."""
    forward, backward = work(3000, 1500, 1.0)
    found = jax.jit(jax.vmap(lambda f, b: diagnostics.work_crossing(f, b, bins)))(forward, backward)
    standardized(found.log_z)
    exact = jax.vmap(bennett)(forward[:20], backward[:20])
    assert 0.995 < float(jnp.mean(found.log_z.stderr[:20]) / jnp.mean(exact.stderr)) < 1.05  # bins lose little


def test_the_histograms_are_densities_that_cross_at_log_z():
    forward, backward = (w[0] for w in work(3000, 1500, 1.0))
    found = crossing(forward, backward, 30)
    wide = np.diff(found.edges)
    for density, values in ((found.forward, forward), (found.backward, backward)):
        np.testing.assert_allclose(density, np.histogram(values, found.edges, density=True)[0], rtol=1e-12)
        assert float(np.sum(density * wide)) == pytest.approx(1.0)
    below, above = found.edges[1:] < MU - 0.2, found.edges[:-1] > MU + 0.2
    full = (found.forward * wide * 3000 > 100) & (found.backward * wide * 1500 > 100)
    assert (found.forward > found.backward)[below & full].all() and (found.backward > found.forward)[above & full].all()
    edges = jnp.linspace(MU - 1, MU + 1, 9)  # edges of one's own; draws outside them and lost ones still count
    part = diagnostics.work_crossing(jnp.concatenate([forward, jnp.full(3000, -jnp.inf)]), backward, edges)
    inside = np.histogram(forward, edges)[0] / 6000
    np.testing.assert_allclose(part.forward * np.diff(edges), inside, rtol=1e-12)


def test_without_overlap_the_crossing_says_so():
    found = diagnostics.work_crossing(jnp.linspace(-9.0, -8.0, 100), jnp.linspace(8.0, 9.0, 100))
    assert np.isnan(found.log_z.value) and np.isinf(found.log_z.stderr)


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match=r"backward log weights are an array \(n,\).*got list\. Pass samples\.log_weight"):
        diagnostics.bennett(jnp.zeros(3), [0.0, 1.0])
    with pytest.raises(ValueError, match=r"forward log weights are a vector.*got shape \(3, 1\)"):
        diagnostics.work_crossing(jnp.zeros((3, 1)), jnp.zeros(3))
    with pytest.raises(ValueError, match="bins are at least 2"):
        diagnostics.work_crossing(jnp.zeros(3), jnp.zeros(3), 1)
