"""What several test files use: paths, toy processes, densities with known integrals, small networks."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiltjax as tj
from tiltjax import contexts, networks, paths, processes, sde, weights
from tiltjax.types import Batch, Held, Objective

SPREAD_START = ("linear", "trigonometric", "vp")


def gaussian(name, shape, scale):
    """The Gaussian process with base N(0, scale^2) on a path of each family; the noise of all varies in time."""
    if name == "geometric":  # nu_1 = scale^2
        ratio = 4.0
        top = scale * np.sqrt(2 * np.log(ratio) / (1 - ratio**-2))
        return processes.gaussian(paths.geometric(top, top / ratio), shape)
    return processes.gaussian(getattr(paths, name)(), shape, scale)


def slow(*values):
    """A case of a parametrized test that `make slow` runs and `make test` leaves out."""
    return pytest.param(*values, marks=pytest.mark.slow)


def fit(key, problem, *, call=tj.fit, **settings):
    """`tj.fit`, with the fields of `Training` among the arguments."""
    training = {name: settings.pop(name) for name in tj.Training._fields if name in settings}
    return call(key, problem, training=tj.Training(**training), **settings)


FAMILIES = ("linear", "trigonometric", "vp", "geometric")


def small(problem):
    """A control network that compiles quickly."""
    return networks.mlp(problem, width=16, depth=1)


def perturbed(params, key, size):
    """Every parameter moved by noise: a network that is zero at initialization becomes a random control."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    moved = [leaf + size * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, moved)


def driven(process, drift):
    """The process by Euler steps with the base's drift b(t, x) given: g_base from b = kappa x + 2 eta (Phi g_base - x / S)."""
    frame = process.frame

    def g_base(t, x, seen):
        t = jnp.maximum(t, paths.START)
        score = (drift(t, x) - frame.path.kappa(t) * x) / (2 * frame.path.eta(t))
        return (score + x / frame.variance(t)) / frame.response(t)

    return processes.euler(process._replace(g_of=g_base, log_density=None))


def trainable(collect, loss, replay, **options):
    """An objective of collect(params, key, n) -> Batch and loss(params, key, data) that carries nothing."""
    return Objective(
        lambda: None,
        lambda here, held, key, n: (collect(held.params, key, n), held.carried),
        lambda held, key, batch: loss(held.params, key, batch.data),
        replay,
        **options,
    )


def as_batch(data):
    """Items of a loss, equally weighted."""
    n = jax.tree.leaves(data)[0].shape[0]
    return Batch(data, jnp.zeros(n), jnp.zeros(n, bool))


def plain(objective):
    """The objective as a function of what is learned alone: collect(params, key, n) -> Batch, loss(params, key, data)."""
    return Plain(
        objective.init,
        lambda params, key, n: contexts.collect(objective, Held(params), key, n)[0],
        lambda params, key, data: objective.loss(Held(params), key, as_batch(data)),
        objective.regression,
    )


class Plain(NamedTuple):
    """An `Objective` that carries nothing."""

    init: Callable
    collect: Callable
    loss: Callable
    regression: object


class Draws(NamedTuple):
    """Stored paths and their end weights."""

    path: sde.Path
    log_weight: jax.Array


def draw(problem, control, times, key, n):
    """n stored paths under `control`, weighted by `weights.girsanov`."""

    def one(key):
        path = sde.simulate_path(problem.process, control, times, key)
        return Draws(path, weights.girsanov(problem.process, problem.reward, path))

    return jax.jit(jax.vmap(one))(jax.random.split(key, n))


def z_scores(values, expected):
    """How many standard errors the mean over axis 0 is off."""
    values = np.asarray(values, np.float64)
    return (values.mean(0) - expected) / (values.std(0, ddof=1) / np.sqrt(len(values)))
