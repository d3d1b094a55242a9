# %% [markdown]
# # Which loss?
#
# The losses that regress a control all have the same optimum. They differ in how *noisy* the label is that they regress on,
# and when.
# In units of $g = \nabla \log h = u / \text{gain}$, with $R_t = \mathrm{Var}[X_1 \mid X_t]$ and $m = E[X_1 \mid X_t]$ of the
# base,
# every one of them is a mixture of two labels with the right mean,
#
# $$\gamma_t \frac{X_1 - m}{R_t} + (1 - \gamma_t) \nabla r(X_1).$$
#
# | loss | $\gamma_t$ | variance |
# |---|---|---|
# | conditional score matching (CSM) | $1$ | unbounded as $t \to 1$ |
# | target score matching (TSM) | $-\beta_t^2 / (\alpha_t s)^2$ | unbounded as $t \to 0$ (stopped at $\gamma = -100$) |
# | novel score matching (NSM), adjoint sampling, adjoint matching | $0$ | bounded |
# | minimum variance (the default) | learned, by time and coordinate | the least of all |
#
# For a target $N(\mu, v)$ under a base $N(0, s^2)$ the variance given $X_t$ is, a coordinate,
# $(\gamma/R - (1-\gamma)/q')^2 \, / \, (1/v + \alpha^2/\beta^2)$ with $1/q' = 1/v - 1/s^2$.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import tiltjax as tj
from tiltjax.losses import collect
from tiltjax.types import Learned

SMALL = os.environ.get("TILTJAX_NOTEBOOK_SIZE") == "small"  # for the tests: seconds instead of minutes
plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})

SCALE, NUM = 1.5, 1000 if SMALL else 8000
process = tj.processes.gaussian(tj.paths.linear(), (2,), SCALE)
mean, variance = jnp.array([0.5, -0.8]), jnp.array([0.1, 0.6])
narrow = jnp.array([[-1.2, -0.8], [1.0, 0.6]])  # two modes of variance 0.05

one_mode = tj.exact.gaussian_target(process, mean, variance)
two_modes = tj.exact.mixture_target(process, narrow, 0.05, jnp.array([0.4, 0.6]))
key_one, key_two, key_pick = jax.random.split(jax.random.key(0), 3)
draws_one = mean + jnp.sqrt(variance) * jax.random.normal(key_one, (NUM, 2))
pick = (jax.random.uniform(key_pick, (NUM,)) > 0.4).astype(int)
draws_two = narrow[pick] + jnp.sqrt(0.05) * jax.random.normal(key_two, (NUM, 2))

# %% [markdown]
# ## Measured and in closed form
#
# `diagnostics.target_variance` measures it for any loss, from the same `regression` that the loss is made of. The reference
# is the exact control, so
# that what is measured is the variance given $X_t$. All on draws of the target itself, on the linear path.

# %%
names = {
    "CSM": tj.losses.conditional_score_matching,
    "TSM": tj.losses.target_score_matching,
    "NSM": tj.losses.novel_score_matching,
    "minimum variance": tj.losses.minimum_variance,
}
times = jnp.concatenate([jnp.array([0.03, 0.07]), jnp.linspace(0.15, 0.85, 8), jnp.array([0.93, 0.97])])
gain2 = jax.vmap(process.frame.gain)(times) ** 2


def measure(truth, draws, make, extra=None):
    """Var(g | X_t) at `times`, summed over coordinates, and its standard error."""
    exact_control = tj.Network(lambda key: (), lambda params, t, x: truth.control(t, x))
    objective = make(truth.problem, exact_control, tj.paths.uniform(4))
    params = Learned((), objective.init() if extra is None else extra(objective.init()))
    batch = collect.known_end_points(truth.problem, draws)
    found = jax.jit(lambda key: tj.diagnostics.target_variance(objective, params, batch, times, key, truth.control).trace)(
        jax.random.key(1)
    )
    return np.asarray(found.value / gain2), np.asarray(found.stderr / gain2)


def closed_form(gamma, t):
    rest = jax.vmap(process.frame.residual)(t)[:, None]
    excess = 1 / (1 / variance - 1 / SCALE**2)
    posterior = 1 / (1 / variance + (t / (1 - t))[:, None] ** 2)
    return np.asarray(jnp.sum((gamma / rest - (1 - gamma) / excess) ** 2 * posterior, axis=1))


def gammas(t):
    """(T, 1): of each loss; minimum variance where its learning starts, R / (R + resolution)."""
    rest = jax.vmap(process.frame.residual)(t)
    ratio = ((1 - t) / (t * SCALE)) ** 2
    start = rest / (rest + one_mode.problem.resolution)
    of = {"CSM": jnp.ones_like(t), "TSM": -jnp.minimum(ratio, 100.0), "NSM": jnp.zeros_like(t), "minimum variance": start}
    return {name: gamma[:, None] for name, gamma in of.items()}


measured = {name: measure(one_mode, draws_one, make) for name, make in names.items()}
for name, gamma in gammas(times).items():
    value, stderr = measured[name]
    assert (np.abs(value - closed_form(gamma, times)) < 5 * stderr).all(), name

excess = 1 / (1 / variance - 1 / SCALE**2)
best, _ = measure(
    one_mode,
    draws_one,
    tj.losses.minimum_variance,
    lambda table: jnp.log(excess / one_mode.problem.resolution) / 30 + 0 * table,
)
print(f"the table of minimum variance at its optimum, gamma = R / (R + q'): at most {best.max():.1e}")
assert best.max() < 1e-4 * measured["NSM"][0].min()
two = {name: measure(two_modes, draws_two, make) for name, make in names.items()}

# %% [markdown]
# Adjoint matching learns from its own paths and knows the times of its grid alone. On paths of the exact control its label
# has the
# variance of NSM's: the lean adjoint of a Gaussian base is $-\Phi_t \nabla r(X_1)$.

# %%
grid = tj.paths.uniform(10)
network = tj.Network(lambda key: (), lambda params, t, x: one_mode.control(t, x))
adjoint = tj.losses.adjoint_matching(one_mode.problem, network, grid)
held = tj.types.Held(Learned((), None))
on_paths, _ = jax.jit(lambda key: tj.contexts.collect(adjoint, held, key, NUM))(jax.random.key(2))
found = tj.diagnostics.target_variance(
    adjoint, Learned((), None), on_paths, grid[1:-1], jax.random.key(3), one_mode.control
).trace
adjoint_gain2 = jax.vmap(process.frame.gain)(grid[1:-1]) ** 2
adjoint_value, adjoint_stderr = found.value / adjoint_gain2, found.stderr / adjoint_gain2
assert (np.abs(adjoint_value - closed_form(jnp.zeros((9, 1)), grid[1:-1])) < 5 * adjoint_stderr).all()

# %%
colors = dict(zip(names, ("tab:red", "tab:orange", "tab:blue", "tab:green"), strict=True))
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained", sharey=True)
fine = jnp.linspace(0.02, 0.985, 200)
for name, gamma in gammas(fine).items():
    left.plot(fine, closed_form(gamma, fine), color=colors[name])
    left.errorbar(times, measured[name][0], measured[name][1], fmt="o", color=colors[name], markersize=4)
    right.errorbar(times, two[name][0], two[name][1], fmt="o-", color=colors[name], markersize=4, label=name)
left.plot(grid[1:-1], adjoint_value, "x", color="black", markersize=7, label="adjoint matching, own paths")
left.plot([], [], "-", color="gray", label="closed form")
left.plot([], [], "o", color="gray", markersize=4, label="measured")
left.set(
    yscale="log",
    ylim=(2e-2, 2e5),
    xlabel="t",
    ylabel="variance of the label, units of g",
    title="a Gaussian, variances 0.1 and 0.6",
)
right.set(xlabel="t", title="two modes of variance 0.05")
left.legend(loc="upper right", ncols=1)
_ = right.legend(loc="upper center")

# %% [markdown]
# CSM has little noise early, TSM and NSM late; CSM and TSM are useless at the other end. NSM is bounded, by $\sum v/q'^2$ for a
# Gaussian, but that bound is large where the target is narrow. The learned mixture takes the better one at every time: within
# one
# mode it has no noise at all, and with two modes what is left is the doubt about *which* mode it will be.

# %% [markdown]
# ## The same network, the same updates
#
# Eight losses on the two modes, from nothing: a small network, as many updates each, draws on the same grid. (One key: a
# difference of a
# few hundredths of ESS is no finding.)

# %%
contestants = {
    "minimum_variance": tj.losses.minimum_variance,
    "novel_score_matching": tj.losses.novel_score_matching,
    "target_score_matching": tj.losses.target_score_matching,
    "conditional_score_matching": tj.losses.conditional_score_matching,
    "adjoint_sampling": tj.losses.adjoint_sampling,
    "adjoint_matching": tj.losses.adjoint_matching,
    "log_variance": tj.losses.log_variance,
    "relative_entropy": tj.losses.relative_entropy,
}
if SMALL:
    contestants = {name: contestants[name] for name in ("minimum_variance", "log_variance")}
rows = []
for name, loss in contestants.items():
    fitted = tj.fit(
        jax.random.key(4),
        two_modes.problem,
        loss=loss,
        network=lambda problem: tj.networks.mlp(problem, width=16 if SMALL else 32, depth=2),
        num_updates=100 if SMALL else 1000,
        num_steps=10 if SMALL else 30,
        training=tj.Training(sampling_steps=20 if SMALL else 100),
        progress=False,
    )
    draws = fitted.sample(jax.random.key(5), 1000 if SMALL else 10_000)
    log_z = tj.diagnostics.log_z(draws.log_weight)
    left_mode = tj.diagnostics.expectation(draws.x[:, 0] + draws.x[:, 1] < -0.2, draws.log_weight)
    back = fitted.backward(jax.random.key(6), draws_two)
    ess, forward = tj.diagnostics.ess(draws.log_weight), tj.diagnostics.forward_ess(back.log_weight)
    rows.append((name, ess, forward, log_z, left_mode, fitted.report.gradient_evaluations, fitted.report.train_seconds))
    if forward > 0.3:  # the draws of the target are where the sampler goes
        assert abs(log_z.value) < 5 * log_z.stderr and abs(left_mode.value - 0.4) < 5 * left_mode.stderr

print(f"{'':28}{'ESS':>6}{'forward ESS':>13}{'log Z (0)':>20}{'left mode (0.4)':>20}{'gradients':>11}{'seconds':>9}")
for name, ess, forward, z, share, gradients, seconds in rows:
    z_text, share_text = (f"{e.value:+.4f} +- {e.stderr:.4f}" for e in (z, share))
    print(f"{name:28}{ess:6.3f}{forward:13.3f}{z_text:>20}{share_text:>20}{gradients:>11}{seconds:9.0f}")
assert SMALL or rows[0][1] > 0.7

# %% [markdown]
# Look at `adjoint_matching`: it learns from its own draws, without weights, and settled on the heavier mode. Its ESS is as
# high as that
# of the best, and its $\log Z$ is $\log 0.6 = -0.51$ with a small standard error. The weights of its own draws cannot know. The
# *forward ESS*, from draws of the target, does; without such draws fit with another key or a wider `Training(scale=)`, or ask
# `sampler.backward` at the points that you know. Which losses drop a mode changes with the settings: with 2,000 updates and a
# width
# of 48 `log_variance` and `relative_entropy` did so too, and `adjoint_sampling`, which here is far from trained, had an ESS
# of 0.69
# and a forward ESS of 0.09. The weighted ones kept both modes each time.
#
# | you have | use |
# |---|---|
# | nothing special | `minimum_variance`, the default |
# | gradients that are unreliable | `conditional_score_matching` |
# | no gradient at all | `log_variance`, `trajectory_balance` |
# | a base that is not Gaussian | `minimum_variance`, or `adjoint_matching` for one mode |
# | expensive energies, one mode | `adjoint_sampling` |
# | one mode, a short grid | `relative_entropy` |
#
# More in [docs/losses.md](../docs/losses.md).
