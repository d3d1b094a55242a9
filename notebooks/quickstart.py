# %% [markdown]
# # Quickstart
#
# From an unnormalized density to weighted draws, its normalizing constant, and numbers that say how far to trust both.
#
# The density is one of one's own: two moons on a ring, the right one heavier. It is a function of **one** point.
#
# $$\log \gamma(x) = -\tfrac12\Big(\frac{|x| - 2}{0.4}\Big)^2 + \log\Big(e^{-\frac12 ((x_1-2)/0.6)^2} +
# e^{-\frac12 ((x_1+2)/0.6)^2}\Big) + \tfrac14 x_1$$
#
# (the first test energy of Rezende & Mohamed 2015, arXiv 1505.05770, and a slope).

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import tiltjax as tj

SMALL = os.environ.get("TILTJAX_NOTEBOOK_SIZE") == "small"  # for the tests: seconds instead of minutes
plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})


def log_density(x):
    radius = jnp.sqrt(jnp.sum(x**2) + 1e-12)  # a slope at 0 too
    moons = jnp.logaddexp(-0.5 * ((x[0] - 2) / 0.6) ** 2, -0.5 * ((x[0] + 2) / 0.6) ** 2)
    return -0.5 * ((radius - 2) / 0.4) ** 2 + moons + x[0] / 4


target = tj.Target(log_density, shape=(2,))

# %% [markdown]
# Two dimensions can be integrated on a grid: the answers that the sampler should find.

# %%
axis = jnp.linspace(-5, 5, 801)
first, second = jnp.meshgrid(axis, axis, indexing="ij")
on_grid = jax.jit(jax.vmap(jax.vmap(log_density)))(jnp.stack([first, second], -1))
cell = (axis[1] - axis[0]) ** 2
mass = jnp.exp(on_grid) * cell
exact = {"log Z": float(jnp.log(mass.sum())), "mass of the right moon": float(mass[first > 0].sum() / mass.sum())}
print(", ".join(f"{name} = {value:.4f}" for name, value in exact.items()))

# %% [markdown]
# ## Fit and sample
#
# `fit` needs nothing but the density. (Its default is 20,000 updates; this density needs fewer.)

# %%
small = {"num_updates": 200, "network": lambda problem: tj.networks.mlp(problem, width=16, depth=1), "num_steps": 15}
sampler = tj.fit(jax.random.key(0), target, progress=False, **(small if SMALL else {"num_updates": 2000}))
draws = sampler.sample(jax.random.key(1), 2000 if SMALL else 20_000)
x = sampler.resample(jax.random.key(2), draws, 2000)  # equal weights: to plot, or to hand on
report = sampler.report
print(f"{report.train_seconds:.0f} s of training, {report.gradient_evaluations} gradients of the density")

# %% [markdown]
# ## Read the answer
#
# Every draw has a weight $w$ with $E[w] = Z$ whatever the state of training, so each number comes with a standard error.

# %%
right = draws.x[:, 0] > 0
log_z = tj.diagnostics.log_z(draws.log_weight)
share = tj.diagnostics.expectation(right, draws.log_weight)
ess = float(tj.diagnostics.ess(draws.log_weight))
print(f"effective sample size   {ess:.3f} of each draw")
print(f"log Z                   {log_z.value:.4f} +- {log_z.stderr:.4f}   (quadrature {exact['log Z']:.4f})")
print(f"mass of the right moon  {share.value:.4f} +- {share.stderr:.4f}   ({exact['mass of the right moon']:.4f})")

assert abs(log_z.value - exact["log Z"]) < 5 * log_z.stderr
assert abs(share.value - exact["mass of the right moon"]) < 5 * share.stderr
assert SMALL or ess > 0.7

# %%
figure, (left, middle, last) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
left.contourf(first, second, jnp.exp(on_grid), 12, cmap="Blues")
left.plot(*x.T, ".", color="black", markersize=1.5, alpha=0.4)
left.set(xlim=(-3.6, 3.6), ylim=(-3.6, 3.6), xlabel="$x_1$", ylabel="$x_2$", aspect="equal", title="2,000 draws on the density")

history = sampler.report.history
updates = np.linspace(0, 200 if SMALL else 2000, len(history.ess) + 1)[1:]
middle.plot(updates, history.ess, color="tab:blue")
middle.set(xlabel="updates", ylabel="ESS of the new paths of a round", ylim=(0, 1), title="training (on its coarser grid)")

log_w = np.asarray(draws.log_weight)
last.hist(log_w, 60, range=tuple(np.quantile(log_w, [0.002, 0.998])), color="tab:blue", alpha=0.7)
last.axvline(exact["log Z"], color="black", label="log Z (quadrature)")
last.set(xlabel="log weight of a draw", ylabel="draws", title="weights: the narrower, the better")
last.set_ylim(top=1.25 * last.get_ylim()[1])
_ = last.legend(loc="upper left")

# %% [markdown]
# ## Is a mode missing?
#
# No weight can show a mode that no particle found. But any *point* can be asked whether the sampler reaches it: paths back from
# $x$ have $E[1/w \mid x] = p_{\text{sampler}}(x)/\gamma(x)$, so minus the log of their mean is $\log Z$ where the sampler has
# the
# right density, and larger where it comes too rarely. (Smaller: it comes too often, which costs sample size and misses
# nothing.)

# %%
points = jnp.array([[2.0, 0.0], [-2.0, 0.0], [-1.0, 1.6], [0.0, 2.0]])
reach = []
for k, point in enumerate(points):
    back = sampler.backward(jax.random.key(10 + k), jnp.tile(point, (200 if SMALL else 2000, 1)))
    reach.append(-float(tj.diagnostics.log_z(-back.log_weight).value))
    print(f"at {point.tolist()}: {reach[-1]:.3f}, {reach[-1] - exact['log Z']:+.3f} from log Z")
assert SMALL or max(reach) < exact["log Z"] + 0.3
