"""Slices of a batch: the same values, means and gradients as of the whole."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import plain

import tiltjax as tj
from tiltjax import batching

KEY = jax.random.key(0)
PARAMS = {"w": jnp.array([0.3, -1.2, 0.7]), "b": jnp.array(0.4)}


def cost(params, key, x):
    return jnp.sum(jnp.square(jnp.tanh(params["w"] * x) + params["b"] + jax.random.normal(key, x.shape)))


one = jax.jit(cost)


@functools.cache
def inputs(n):
    return jax.random.split(KEY, n), jax.random.normal(jax.random.key(1), (n, 3))


@pytest.mark.parametrize("n", [1, 5, 12, 13, 64])
@pytest.mark.parametrize("size", [1, 4, 5])
def test_a_mean_by_slices_is_the_mean(n, size):
    def of(params, size):
        return 3 * batching.mean(cost, params, inputs(n), size)  # 3: the cotangent is not 1

    value = np.mean([one(PARAMS, *[a[i] for a in inputs(n)]) for i in range(n)])
    whole, sliced = (jax.jit(jax.value_and_grad(of), static_argnums=1)(PARAMS, size) for size in (None, size))
    chex.assert_trees_all_close(whole[0], 3 * value, rtol=1e-5)
    chex.assert_trees_all_close(sliced, whole, rtol=1e-5)
    chex.assert_trees_all_close(jax.jit(of, static_argnums=1)(PARAMS, size), 3 * value, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 5, 13])
def test_particles_do_not_depend_on_their_slice(n):
    def one(key, x):
        return x + jax.random.normal(key, x.shape), jnp.sum(x)

    chex.assert_trees_all_close(batching.each(one, inputs(n), 4), jax.vmap(one)(*inputs(n)), rtol=1e-6)


@pytest.mark.slow
def test_a_network_that_asks_for_slices_gets_the_same_loss():
    """Every learned quantity, that of the mixture too, has its gradient."""
    target = tj.targets.double_well()
    problem = tj.problems.sampling(target, tj.processes.gaussian(tj.paths.linear(), (3, 2), 1.3), resolution=0.05)
    network, times = tj.networks.egnn(problem, width=8, depth=2), tj.paths.log_snr(problem.frame, 6, 0.05)

    def gradient(at_once):
        objective = plain(tj.losses.minimum_variance(problem, network._replace(at_once=at_once), times))
        params = tj.types.Learned(control, objective.init())
        data = objective.collect(params, jax.random.key(2), 20).data
        return data.x, jax.value_and_grad(objective.loss)(params, jax.random.key(3), data)

    control = jax.tree.map(lambda a: a + 0.1, network.init(KEY))
    sliced, whole = (jax.jit(gradient, static_argnums=0)(at_once) for at_once in (8, None))
    chex.assert_trees_all_close(sliced, whole, rtol=2e-3, atol=1e-4)
