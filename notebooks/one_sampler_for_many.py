# %% [markdown]
# # One sampler for many problems
#
# A *family* is a set of problems that differ in a few numbers, the *context*: a temperature, a coupling, a data set. One
# sampler serves all of them, and its weights prove the answer for each context on its own.
#
# First a mixture at any temperature between two. Then the posterior of a NumPyro regression for any data set, beside NUTS.

# %%
import os
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist

import tiltjax as tj

SMALL = os.environ.get("TILTJAX_NOTEBOOK_SIZE") == "small"  # for the tests: seconds instead of minutes
plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
network = lambda problem: tj.networks.mlp(problem, width=16 if SMALL else 128, depth=1 if SMALL else 3)  # noqa: E731

# %% [markdown]
# ## A mixture at any temperature
#
# All energies of a mixture of four Gaussians are multiplied by an inverse temperature $b$:
# $\gamma_b(x) = \big(\sum_k e^{-|x - c_k|^2 / 2 v}\big)^b$. The context is $b$. Training draws it anew for every group of
# particles, from the uniform distribution between 0.2 and 1.

# %%
centres, variance = jnp.asarray([[-3.0, -1.0], [-1.0, 2.5], [1.5, -2.5], [3.0, 1.5]]), 0.4


@jax.jit  # wrapped outside of `at`: Python then runs it once
def log_density(b, x):
    return b * jax.nn.logsumexp(-0.5 * jnp.sum(jnp.square(x[None] - centres), axis=1) / variance)


process = tj.processes.gaussian(tj.paths.linear(), (2,), 3.5)


def at(given, b):
    return tj.problems.make_sampling(tj.Target(lambda x: log_density(b, x), (2,)), process, 0.3)


family = tj.problems.family(at, lambda key: jax.random.uniform(key, (), minval=0.2, maxval=1.0))
short = {"num_updates": 100, "num_steps": 10}
sampler = tj.fit(jax.random.key(0), family, network=network, progress=False, **(short if SMALL else {"num_updates": 4000}))

# %% [markdown]
# Contexts that are stacked are drawn in one call. Each has its own weights, so each has its own $\log Z$ and ESS. The truth is
# known by quadrature.

# %%
b = jnp.linspace(0.2, 1.0, 9)
draws = sampler.sample(jax.random.key(1), 500 if SMALL else 5000, context=b, num_steps=20 if SMALL else 200)
log_z, ess = jax.vmap(tj.diagnostics.log_z)(draws.log_weight), jax.vmap(tj.diagnostics.ess)(draws.log_weight)

side = jnp.linspace(-14.0, 14.0, 561)
grid = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)


def integral(b):
    return jax.nn.logsumexp(jax.vmap(lambda x: log_density(b, x))(grid)) + 2 * jnp.log(side[1] - side[0])


exact = jnp.stack([integral(one) for one in b])
print("      b     ESS               log Z     exact")
for one, e, value, stderr, truth in zip(b, ess, *log_z, exact, strict=True):
    print(f"{one:7.2f}{e:8.3f}{value:11.4f} +- {stderr:.4f}{truth:10.4f}")
if not SMALL:
    assert jnp.all(jnp.abs(log_z.value - exact) < 5 * log_z.stderr) and float(ess.min()) > 0.5

# %%
figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained")
for axis, i in zip(axes[:3], (0, 4, 8), strict=True):
    axis.plot(*np.asarray(draws.x[i, :2000]).T, ".", markersize=1.5, color="tab:blue", alpha=0.5)
    axis.set(title=f"b = {b[i]:.1f}, ESS {ess[i]:.2f}", xlim=(-8, 8), ylim=(-8, 8), aspect="equal")
axes[3].plot(b, exact, color="black", label="quadrature")
axes[3].errorbar(b, log_z.value, 2 * log_z.stderr, fmt="o", color="tab:blue", markersize=4, label="weights")
axes[3].set(xlabel="b", ylabel=r"$\log Z_b$")
_ = axes[3].legend()

# %% [markdown]
# ## The posterior for any data set
#
# A regression with an unknown slope, offset and noise. With `observed="y"` the model becomes the family of its posteriors: the
# context is the data set $y$. A draw of the prior predictive is a data set together with an exact draw of its posterior. So
# training needs neither paths nor energies here.

# %%
t = jnp.linspace(-1.0, 1.0, 12)


def line(t, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 2.0))
    offset = numpyro.sample("offset", dist.Normal(0.0, 2.0))
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(offset + slope * t, sd).to_event(1), obs=y)


posteriors = tj.integrations.from_numpyro(line, t, observed="y")
began = time.perf_counter()
anyone = tj.fit(jax.random.key(0), posteriors, network=network, progress=False, **(short if SMALL else {"num_updates": 6000}))
fit_seconds = time.perf_counter() - began

# %% [markdown]
# Six data sets that training has not seen, beside four chains of NUTS each.

# %%
data = jax.vmap(posteriors.many.draw)(jax.random.split(jax.random.key(7), 2 if SMALL else 6))
num_draws = 500 if SMALL else 10_000
jax.block_until_ready(anyone.sample(jax.random.key(2), num_draws, context=data[0]))  # compiles
began = time.perf_counter()
drawn = jax.block_until_ready(anyone.sample(jax.random.key(2), num_draws, context=data))
seconds = (time.perf_counter() - began) / len(data)
sites = jax.vmap(jax.vmap(posteriors.at((), data[0]).target.constrain))(drawn.x)
evidence, ess = jax.vmap(tj.diagnostics.log_z)(drawn.log_weight), jax.vmap(tj.diagnostics.ess)(drawn.log_weight)


def nuts(y):
    kernel = numpyro.infer.NUTS(line)
    chains = numpyro.infer.MCMC(
        kernel,
        num_warmup=100 if SMALL else 500,
        num_samples=100 if SMALL else 2500,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    chains.run(jax.random.key(3), t, y=y)
    return jax.block_until_ready(chains.get_samples())


began = time.perf_counter()
chains = [nuts(y) for y in data]
nuts_seconds = (time.perf_counter() - began) / len(data)

print(f"a fit for all: {fit_seconds:.0f} s; then {seconds:.2f} s a data set. NUTS: {nuts_seconds:.1f} s a data set\n")
print("data set    ESS    log p(y)              slope: mean, sd (NUTS)            noise: mean, sd (NUTS)")
for i, chain in enumerate(chains):
    w = tj.weights.normalize(drawn.log_weight[i])
    words = []
    for name in ("slope", "sd"):
        mean = jnp.sum(w * sites[name][i])
        sd = jnp.sqrt(jnp.sum(w * (sites[name][i] - mean) ** 2))
        words.append(f"{mean:7.3f}, {sd:.3f} ({chain[name].mean():6.3f}, {chain[name].std():.3f})")
        if not SMALL:
            assert abs(mean - chain[name].mean()) < 0.1 * chain[name].std()
    print(f"{i:8}{ess[i]:7.2f}{evidence.value[i]:12.3f} +- {evidence.stderr[i]:.3f}     {words[0]}     {words[1]}")

# %% [markdown]
# The log evidence of each data set comes with an error bar from the weights; NUTS does not give it. The family pays when
# many data sets come. For one data set NUTS alone is cheaper than the fit.
