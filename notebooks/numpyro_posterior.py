# %% [markdown]
# # The posterior of a NumPyro model, beside NUTS
#
# Eight schools, non-centred: a NumPyro model becomes a target, the draws go back to the model's own sites, and to ArviZ.
#
# $$\mu \sim N(0, 5),\quad \tau \sim \text{HalfCauchy}(5),\quad \theta_j = \mu + \tau z_j,\ z_j \sim N(0, 1),\quad y_j \sim
# N(\theta_j, \sigma_j).$$
#
# For one mode in ten dimensions NUTS is the cheaper tool. What it does not give is the evidence $p(y)$; here both that and
# the means are
# known by quadrature over $(\mu, \tau)$, since $y_j \mid \mu, \tau \sim N(\mu, \tau^2 + \sigma_j^2)$.

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

effects = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
errors = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools(errors, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(errors)):
        z = numpyro.sample("z", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("obs", dist.Normal(theta, errors), obs=y)


posterior = tj.integrations.from_numpyro(eight_schools, errors, y=effects)  # unconstrained, Jacobian included

# %% [markdown]
# ## The exact answer, by quadrature

# %%
mu, log_tau = (v.astype(np.float64) for v in np.meshgrid(np.linspace(-25, 32, 401), np.linspace(-9, 8, 801), indexing="ij"))
tau = np.exp(log_tau)
area = (mu[1, 0] - mu[0, 0]) * (log_tau[0, 1] - log_tau[0, 0])
y, s = np.asarray(effects, np.float64), np.asarray(errors, np.float64)
total = tau[..., None] ** 2 + s**2
log_joint = -0.5 * (mu / 5) ** 2 - np.log(5 * np.sqrt(2 * np.pi)) + np.log(2 / (np.pi * 5)) - np.log1p((tau / 5) ** 2) + log_tau
log_joint = log_joint + np.sum(-0.5 * (y - mu[..., None]) ** 2 / total - 0.5 * np.log(2 * np.pi * total), axis=-1)
top = log_joint.max()
weight = np.exp(log_joint - top)
exact_log_z = float(top + np.log(weight.sum() * area))
weight = weight / weight.sum()
shrunk = mu[..., None] + tau[..., None] ** 2 / total * (y - mu[..., None])  # E[theta_j | mu, tau, y]
exact_mean = {
    "mu": np.sum(weight * mu),
    "log_tau": np.sum(weight * log_tau),
    "theta": np.sum(weight[..., None] * shrunk, (0, 1)),
}
print(f"log p(y) = {exact_log_z:.4f}")

# %% [markdown]
# ## Fit, sample, and go back to the model's sites

# %%
small = {"num_updates": 100, "num_steps": 10, "network": lambda problem: tj.networks.mlp(problem, width=16, depth=1)}
sampler = tj.fit(jax.random.key(0), posterior, progress=False, **(small if SMALL else {"num_updates": 3000}))
draws = sampler.sample(jax.random.key(1), 2000 if SMALL else 10_000, **({"num_steps": 20} if SMALL else {}))
sites = jax.vmap(posterior.constrain)(draws.x)  # {"mu": (n,), "tau": (n,), "z": (n, 8), "theta": (n, 8)}

ess = float(tj.diagnostics.ess(draws.log_weight))
log_z = tj.diagnostics.log_z(draws.log_weight)
found = {
    "mu": tj.diagnostics.expectation(sites["mu"], draws.log_weight),
    "log_tau": tj.diagnostics.expectation(jnp.log(sites["tau"]), draws.log_weight),
    "theta": tj.diagnostics.expectation(sites["theta"], draws.log_weight),
}
print(f"ESS {ess:.2f}, log p(y) = {log_z.value:.4f} +- {log_z.stderr:.4f}, by quadrature {exact_log_z:.4f}")
if not SMALL or ess * len(draws.x) > 100:  # else the standard errors themselves are not to be trusted
    assert abs(log_z.value - exact_log_z) < 5 * log_z.stderr
    for name, (value, stderr) in found.items():
        assert np.all(np.abs(value - exact_mean[name]) < 5 * stderr), name

# %% [markdown]
# ## NUTS

# %%
warmup, kept = (100, 100) if SMALL else (1000, 2000)
began = time.perf_counter()
nuts = numpyro.infer.MCMC(
    numpyro.infer.NUTS(eight_schools, target_accept_prob=0.9),
    num_warmup=warmup,
    num_samples=kept,
    num_chains=1 if SMALL else 4,
    chain_method="vectorized",
    progress_bar=False,
)
nuts.run(jax.random.key(2), errors, y=effects)
chains = jax.block_until_ready(nuts.get_samples(group_by_chain=True))
nuts_seconds = time.perf_counter() - began
report = sampler.report
print(f"NUTS {nuts_seconds:.0f} s; this fit {report.pilot_seconds + report.compile_seconds + report.train_seconds:.0f} s")
print(f"\n{'':12}{'exact':>9}{'tiltjax':>20}{'NUTS':>9}")
rows = [("mu", exact_mean["mu"], *found["mu"], chains["mu"].mean())]
rows += [("log tau", exact_mean["log_tau"], *found["log_tau"], jnp.log(chains["tau"]).mean())]
rows += [
    (
        f"theta {j + 1}",
        exact_mean["theta"][j],
        found["theta"].value[j],
        found["theta"].stderr[j],
        chains["theta"][..., j].mean(),
    )
    for j in range(8)
]
for name, truth, value, stderr, other in rows:
    print(f"{name:12}{truth:9.3f}{value:11.3f} +- {stderr:.3f}{other:9.3f}")

# %% [markdown]
# ## To ArviZ
#
# ArviZ expects draws of equal weight: `to_arviz` resamples. The log evidence goes along as an attribute.

# %%
names = {"theta": ["school"], "z": ["school"]}
data = tj.integrations.to_arviz(jax.random.key(3), draws, posterior, dims=names)
assert data["posterior"]["theta"].dims == ("chain", "draw", "school")
for name, values in data["posterior"].data_vars.items():
    print(f"{name:6} {dict(values.sizes)}")

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
flat = {name: np.asarray(value).reshape(-1, *value.shape[2:]) for name, value in chains.items()}
w = np.asarray(tj.weights.normalize(draws.log_weight))
curves = {
    "mu": (axes[0], mu[:, 0], weight.sum(1) / (mu[1, 0] - mu[0, 0]), np.linspace(-12, 20, 50), lambda v: v),
    "tau": (axes[1], log_tau[0], weight.sum(0) / (log_tau[0, 1] - log_tau[0, 0]), np.linspace(-5, 4.5, 50), np.log),
}
for name, (axis, line, density, bins, of) in curves.items():
    axis.hist(of(np.asarray(sites[name])), bins, weights=w, density=True, color="tab:blue", alpha=0.45, label="tiltjax")
    axis.hist(of(flat[name]), bins, density=True, histtype="step", color="tab:orange", linewidth=1.5, label="NUTS")
    axis.plot(line, density, color="black", linewidth=1.5, label="quadrature")
    axis.set(xlim=(bins[0], bins[-1]), xlabel={"mu": r"$\mu$", "tau": r"$\log\tau$"}[name], ylabel="posterior density")
axes[0].legend(loc="upper left")
place = np.arange(8)
drawn = np.asarray(data["posterior"]["theta"])[0]
for shift, draws_of, color, label in ((-0.13, drawn, "tab:blue", "tiltjax"), (0.13, flat["theta"], "tab:orange", "NUTS")):
    low, high = np.quantile(draws_of, [0.05, 0.95], axis=0)
    axes[2].vlines(place + shift, low, high, color=color, linewidth=2)
    axes[2].plot(place + shift, draws_of.mean(0), "o", color=color, label=f"{label}: mean, 90 %")
axes[2].plot(place, exact_mean["theta"], "_", color="black", markersize=18, label="exact mean")
axes[2].plot(place, effects, "x", color="gray", label="observed effect")
axes[2].set(xlabel="school", ylabel=r"$\theta$", xticks=place, xticklabels=place + 1, ylim=(-12, 48))
_ = axes[2].legend(loc="upper right", ncols=2)
