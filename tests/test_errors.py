"""Bad input is refused at once, with what was got, what was expected, and what to do."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import support

import tiltjax as tj
from tiltjax import weights
from tiltjax.integrations import from_numpyro

KEY = jax.random.key(0)
LINEAR = tj.processes.gaussian(tj.paths.linear(), (2,))
BLIND = tj.processes.pretrained(tj.paths.linear(), (2,), denoiser=lambda t, x: x)
SQUARE = lambda x: -jnp.sum(jnp.square(x))  # noqa: E731


def coin():
    numpyro.sample("side", dist.Bernoulli(0.5))
    numpyro.sample("x", dist.Normal(0.0, 1.0))


def fit(log_density, shape=(2,), key=KEY, **options):
    return support.fit(key, tj.Target(log_density, shape), progress=False, **options)


def sampler():
    problem = tj.problems.sampling(tj.targets.gaussian(), tj.processes.gaussian(tj.paths.linear(), (2,), 2.0))
    network = tj.networks.zero(problem)
    return tj.sampling.sampler(problem, network, (), tj.paths.uniform)


CASES = {
    # the density
    "not a target": (lambda: tj.fit(KEY, SQUARE), TypeError, r"a target is needed; got function\. Wrap .*Target\(log_density"),
    "a centred target elsewhere": (
        lambda: support.fit(KEY, tj.targets.double_well(), location=3.0),
        ValueError,
        r"a centred target is around 0.*got location=3\.0",
    ),
    "not callable": (lambda: fit(3.0), TypeError, r"log_density must be a function .*; got float"),
    "returns a vector": (
        lambda: fit(lambda x: -(x**2)),
        ValueError,
        r"scalar for ONE particle .*\(2,\); got shape \(2,\)\. Sum",
    ),
    "returns (1,)": (lambda: fit(lambda x: SQUARE(x)[None]), ValueError, r"got shape \(1,\)\. .*the library vmaps"),
    "returns a pair": (lambda: fit(lambda x: (SQUARE(x), x)), ValueError, r"must return an array scalar .*; got tuple"),
    "returns an int": (lambda: fit(lambda x: jnp.argmax(x)), ValueError, r"real floating-point number; got dtype int64"),
    "returns complex": (
        lambda: fit(lambda x: jax.lax.complex(SQUARE(x), 0.0)),
        ValueError,
        r"real floating-point number; got dtype complex128",
    ),
    "takes another shape": (lambda: fit(lambda x: x @ jnp.ones(3)), ValueError, r"failed on one particle of shape \(2,\).*ONE"),
    "takes a batch": (lambda: fit(lambda x: jnp.sum(x, axis=1)), ValueError, r"failed on one particle of shape \(2,\).*vmaps"),
    "is numpy's": (lambda: fit(lambda x: np.sum(np.log(x))), ValueError, r"log_density failed on one particle of shape \(2,\)"),
    "is NaN": (
        lambda: fit(lambda x: jnp.nan * SQUARE(x)),
        FloatingPointError,
        r"not finite at any of 2048 starting.*location=",
    ),
    "is -inf": (lambda: fit(lambda x: -jnp.inf + SQUARE(x)), FloatingPointError, r"not finite at any .*transform bounded"),
    # shapes
    "shape is an int": (lambda: fit(SQUARE, 2), ValueError, r"a tuple of positive ints; got 2\. For d numbers: \(d,\)"),
    "shape is empty": (lambda: fit(SQUARE, ()), ValueError, r"a tuple of positive ints; got \(\)"),
    "shape has a zero": (lambda: fit(SQUARE, (2, 0)), ValueError, r"got \(2, 0\)"),
    "target and process differ": (
        lambda: tj.problems.sampling(tj.Target(SQUARE, (3,)), LINEAR),
        ValueError,
        r"target\.shape=\(3,\), process\.shape=\(2,\)\. Build",
    ),
    "x of another shape": (
        lambda: sampler().backward(KEY, jnp.zeros((5, 3))),
        ValueError,
        r"\(n, \*\(2,\)\); got shape \(5, 3\)",
    ),
    "one x": (lambda: sampler().backward(KEY, jnp.zeros(2)), ValueError, r"\(n, \*\(2,\)\); got shape \(2,\)"),
    # noise and scales
    "no noise": (lambda: tj.paths.brownian(0.0), ValueError, r"sigma is the noise .* positive and finite; got 0\.0"),
    "noise is NaN": (lambda: tj.paths.brownian(float("nan")), ValueError, r"positive and finite; got nan"),
    "noise is negative": (lambda: tj.paths.geometric(1.0, -1.0), ValueError, r"sigma_min .* positive and finite; got -1\.0"),
    "noise rises": (
        lambda: tj.paths.geometric(1.0, 2.0),
        ValueError,
        r"sigma_max > sigma_min .* got sigma_max=1\.0.*paths\.brownian",
    ),
    "rate is zero": (lambda: tj.paths.vp(0.0), ValueError, r"0 < beta_min <= beta_max; got beta_min=0\.0.*0\.1 and 20"),
    "base has no scale": (
        lambda: tj.processes.gaussian(tj.paths.linear(), (2,), 0.0),
        ValueError,
        r"scale .* positive.*; got 0\.0",
    ),
    "resolution": (
        lambda: tj.problems.tilt(LINEAR, SQUARE, resolution=-1.0),
        ValueError,
        r"resolution is a variance.*; got -1\.0",
    ),
    "pilot's scale": (lambda: fit(SQUARE, scale=0.0), ValueError, r"scale is the pilot's .*; got 0\.0"),
    "pilot's location": (lambda: fit(SQUARE, location=jnp.zeros(3)), ValueError, r"particle of shape \(2,\); got shape \(3,\)"),
    # rewards and what a loss or a network needs
    "reward of rank 1": (
        lambda: tj.problems.tilt(LINEAR, lambda x: x),
        ValueError,
        r"reward must return a scalar .*got shape \(2,\)",
    ),
    "base without density": (
        lambda: tj.problems.sampling(tj.targets.gaussian(), BLIND),
        ValueError,
        r"needs a Gaussian process; got one known by.*problems\.tilt",
    ),
    "flow lacks a Gaussian base": (
        lambda: tj.sde.probability_flow(BLIND, lambda t, x: x, tj.paths.uniform(2), KEY),
        ValueError,
        r"needs a Gaussian process; got",
    ),
    "loss by name": (
        lambda: fit(SQUARE, loss="minimum_variance"),
        TypeError,
        r"loss must be a constructor, .*; got str 'minimum",
    ),
    "network is an array": (
        lambda: fit(SQUARE, network=jnp.ones(3)),
        TypeError,
        r"network must be a constructor .*; got ArrayImpl",
    ),
    "optimizer by name": (
        lambda: fit(SQUARE, optimizer="adam"),
        TypeError,
        r"optimizer must be a constructor, .*; got str",
    ),
    "discrete latent": (lambda: from_numpyro(coin), ValueError, r"side"),
    # keys, counts, rates
    "uint32 key": (lambda: fit(SQUARE, key=jnp.zeros(2, jnp.uint32)), TypeError, r"typed PRNG key, jax\.random\.key\(0\); got"),
    "key second": (lambda: tj.fit(tj.targets.gaussian(), KEY), TypeError, r"got Target\. It comes first"),
    "uint32 key in sample": (lambda: sampler().sample(jnp.zeros(2, jnp.uint32), 5), TypeError, r"typed PRNG key"),
    "no particles": (lambda: sampler().sample(KEY, 0), ValueError, r"num_particles must be a positive int; got 0"),
    "no particles to resample": (
        lambda: sampler().resample(KEY, tj.Samples(jnp.zeros((3, 2)), jnp.zeros(3)), 0),
        ValueError,
        r"num_particles must be a positive int; got 0",
    ),
    "a float of particles": (
        lambda: sampler().sample(KEY, 1e3),
        TypeError,
        r"num_particles must be a positive int; got float 1000\.0\. Pass num_particles=1000\.",
    ),
    "half a particle": (
        lambda: sampler().sample(KEY, 1.5),
        TypeError,
        r"must be a positive int; got float 1\.5\.",
    ),
    "a float of steps": (lambda: sampler().sample(KEY, 5, num_steps=10.0), TypeError, r"got float 10\.0\. Pass num_steps=10\."),
    "a float of steps backward": (
        lambda: sampler().backward(KEY, jnp.zeros((3, 2)), num_steps=10.0),
        TypeError,
        r"got float 10\.0\. Pass num_steps=10\.",
    ),
    "a float of a batch": (lambda: sampler().sample(KEY, 5, batch_size=2e3), TypeError, r"Pass batch_size=2000\."),
    "no batch": (lambda: sampler().sample(KEY, 5, batch_size=0), ValueError, r"batch_size must be a positive int; got 0"),
    "no steps": (
        lambda: sampler().sample(KEY, 5, num_steps=0),
        ValueError,
        r"num_steps must be a positive int; got 0",
    ),
    "no updates": (lambda: fit(SQUARE, num_updates=0), ValueError, r"num_updates must be a positive int; got 0"),
    "a float of updates": (lambda: fit(SQUARE, num_updates=2e4), TypeError, r"got float 20000\.0\. Pass num_updates=20000\."),
    "half a step": (lambda: fit(SQUARE, num_steps=1.5), TypeError, r"num_steps must be a positive int; got float 1\.5\."),
    "no steps of draws": (lambda: fit(SQUARE, sampling_steps=0), ValueError, r"sampling_steps must be a positive int; got 0"),
    "learning rate": (
        lambda: fit(SQUARE, learning_rate=float("nan")),
        ValueError,
        r"learning_rate .* must be positive and finite; got nan",
    ),
    "defensive share": (lambda: weights.defensive(weights.tempered(0.2), 1.0), ValueError, r"in \(0, 1\); got 1\.0"),
    "ess floor": (lambda: weights.tempered(2.0), ValueError, r"in \(0, 1\); got 2\.0"),
    "matrix of log weights": (
        lambda: tj.diagnostics.ess(jnp.zeros((3, 3))),
        ValueError,
        r"vector .*; got shape \(3, 3\)\. Pass",
    ),
    "modes unknown": (
        lambda: tj.diagnostics.mode_histogram(tj.Target(SQUARE, (2,)), jnp.zeros((3, 2))),
        ValueError,
        r"names its modes; .* Pass Target\(\.\.\., mode=",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name):
    call, kind, message = CASES[name]
    with pytest.raises(kind) as caught:
        call()
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)


def test_bad_input_of_load(tmp_path):
    target = tj.targets.gaussian()
    with pytest.raises(FileNotFoundError, match=r"that Sampler\.save wrote .*got .*nowhere, which does not exist"):
        tj.load(tmp_path / "nowhere", target)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"which holds notes\.txt"):
        tj.load(tmp_path, target)
    (tmp_path / "tiltjax.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match=r"has format 99, expected 2: .*Fit again"):
        tj.load(tmp_path, target)


@pytest.mark.slow
def test_a_density_that_is_nan_where_a_given_process_begins_stops_the_run():
    """For a problem there is no pilot: the first chunk says which quantity went bad."""
    target = tj.Target(lambda x: jnp.where(jnp.sum(x) > 1e6, 0.0, jnp.nan), (2,))
    problem = tj.problems.sampling(target, LINEAR)
    network = functools.partial(tj.networks.mlp, width=8, depth=1)
    with pytest.raises(FloatingPointError, match=r"first quantity to go bad was .* Check the density"):
        tj.fit(KEY, problem, network=network, loss=tj.losses.log_variance, num_updates=20, num_steps=5, progress=False)
