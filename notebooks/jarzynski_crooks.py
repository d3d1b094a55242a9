# %% [markdown]
# # Jarzynski and Crooks for a tilt
#
# A tilt path $r_t$ from $r_0 = 0$ to $r_1 = r$ leads from the base to the tilt, $\rho_t \propto p_t e^{r_t}$. With **any**
# drift $g$ and any noise
#
# $$dX = \big[v + g + \tfrac{\sigma^2}{2}(s + \nabla r_t)\big] dt + \sigma\,dB, \qquad
# dA = \big[\partial_t r_t + v\cdot\nabla r_t + \nabla\cdot g + g\cdot(s + \nabla r_t)\big] dt .$$
#
# **Jarzynski**: $E[e^{A_1} f(X_1)] = Z\, E_{p^*}[f]$. **Crooks**: along every path $dP_{\text{backward}}/dP_{\text{forward}}
# = e^{A_1}/Z$; on a grid it is a ratio of
# Gaussian kernels, and with a base that has a density $E[w] = Z$ at *any* number of steps. Neither needs $\log p_t$ or
# $\nabla\cdot v$ of the base, so a base may be a
# trained model. The drift here is one that nobody trained. (Domingo-Enrich, Du, Albergo, arXiv 2605.00229.)

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import tiltjax as tj

SMALL = os.environ.get("TILTJAX_NOTEBOOK_SIZE") == "small"  # for the tests: seconds instead of minutes
plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})

base = tj.exact.Mixture(jnp.array([[-0.9, 0.3], [0.8, -0.4]]), 0.4, jnp.array([0.4, 0.6]))
aim = tj.exact.Mixture(jnp.array([[-0.7, 0.1], [1.0, -0.8]]), 0.3, jnp.array([0.7, 0.3]))
nominal = tj.processes.gaussian(tj.paths.linear(), (2,), 1.3)
LOG_Z = 0.7  # of the rewards below


def annealed(truth):
    problem = truth.problem._replace(reward=lambda x: truth.problem.reward(x) + LOG_Z)
    bend = tj.annealing.scaled(problem.reward, lambda t: t**2 * (3 - 2 * t))
    return tj.problems.annealed(problem, bend, noise=lambda t: 0.9 + 0.4 * jnp.sin(3 * t))


# the same target twice: as the tilt of a Gaussian, and of a mixture that is known by its denoiser alone
problems = {
    "Gaussian base": annealed(tj.exact.mixture_target(nominal, *aim)),
    "pretrained mixture base": annealed(tj.exact.mixture_tilt(nominal, base, aim)),
}
colors = {"Gaussian base": "tab:blue", "pretrained mixture base": "tab:orange"}


def drift(t, x):
    return 0.4 * jnp.sin(2 * x[::-1] + t) - 0.2 * x


# %% [markdown]
# ## Path by path they agree
#
# The two weights of the same stored paths. They differ by the discretization of both, which shrinks as the root of the step.

# %%
STEPS = (50, 200) if SMALL else (25, 100, 400, 1600)
NUM = 200 if SMALL else 400


def both(problem, num_steps):
    times = tj.paths.uniform(num_steps)

    def one(key):
        path = tj.dynamics.simulate_path(problem, drift, times, key)
        return tj.dynamics.log_weight(problem, drift, path), tj.dynamics.jarzynski(problem, drift, path)

    return [np.asarray(w) for w in jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), NUM))]


print(f"{'':26}{'steps':>6}{'correlation':>13}{'sd of difference':>18}")
spread, pairs = {}, {}
for name, problem in problems.items():
    pairs[name] = [both(problem, n) for n in STEPS]
    spread[name] = [np.std(crooks - work) for crooks, work in pairs[name]]
    correlation = [np.corrcoef(crooks, work)[0, 1] for crooks, work in pairs[name]]
    for row in zip(STEPS, correlation, spread[name], strict=True):
        print(f"{name:26}{row[0]:>6}{row[1]:>13.5f}{row[2]:>18.4f}")
    assert 1.3 < spread[name][-2] / spread[name][-1] < 3  # 2 = sqrt(4)
    assert correlation[-1] > (0.99 if SMALL else 0.999)

# %% [markdown]
# ## Both weigh as the target
#
# With a few steps the full Crooks weight is still unbiased; the Jarzynski weight is not, nor is the relative Crooks weight
# (no base density): they converge.

# %%
print(f"{'':26}{'steps':>6}{'Crooks: E[w] / Z':>24}{'Jarzynski: E[w] / Z':>24}")
for name, problem in problems.items():
    for num_steps in (3, 10, 100):
        times = tj.paths.uniform(num_steps)

        def weights(key, problem=problem, times=times):
            path = tj.dynamics.simulate_path(problem, drift, times, key)
            return tj.dynamics.log_weight(problem, drift, path), tj.dynamics.jarzynski(problem, drift, path)

        logs = jax.jit(jax.vmap(weights))(jax.random.split(jax.random.key(1), 1000 if SMALL else 10_000))
        ratios = [np.exp(np.asarray(log_w) - LOG_Z) for log_w in logs]
        means = [(w.mean(), w.std() / np.sqrt(w.size)) for w in ratios]
        print(f"{name:26}{num_steps:>6}" + "".join(f"{mean:>15.4f} +- {stderr:.4f}" for mean, stderr in means))
        if name == "Gaussian base":
            assert abs(means[0][0] - 1) < 5 * means[0][1]

# %% [markdown]
# ## Forward and backward work cross at log Z
#
# Paths of the tilt start from exact draws of it and run backwards. Crooks: $p_{\text{backward}}(\log w) /
# p_{\text{forward}}(\log w) = e^{\log w} / Z$, whatever
# the drift, so the two histograms cross at $\log Z$. Bennett's acceptance ratio is the best estimate from both.


# %%
def draws_of_target(key, n):
    key_mode, key_noise = jax.random.split(key)
    mode = jax.random.categorical(key_mode, jnp.log(aim.weights), shape=(n,))
    return aim.means[mode] + jnp.sqrt(aim.variance) * jax.random.normal(key_noise, (n, 2))


def work(problem, num_steps, n):
    times, (key_f, key_b, key_x) = tj.paths.uniform(num_steps), jax.random.split(jax.random.key(2), 3)

    def back(key, x):
        path = tj.dynamics.simulate_backward(problem, drift, times, key, x)
        return tj.dynamics.log_weight(problem, drift, path)

    forward = jax.vmap(lambda key: tj.dynamics.simulate(problem, drift, times, key).log_weight)
    ahead = jax.jit(forward)(jax.random.split(key_f, n))
    return ahead, jax.jit(jax.vmap(back))(jax.random.split(key_b, n), draws_of_target(key_x, n))


crossings = {}
for name, problem in problems.items():
    ahead, behind = work(problem, 20 if name == "Gaussian base" else 150, 1000 if SMALL else 10_000)
    crossings[name] = tj.diagnostics.work_crossing(ahead, behind, 20 if SMALL else 40)
    estimates = {
        "forward paths alone": tj.diagnostics.log_z(ahead),
        "backward paths alone": tj.diagnostics.log_z(-behind)._replace(value=-tj.diagnostics.log_z(-behind).value),
        "crossing of histograms": crossings[name].log_z,
        "Bennett": tj.diagnostics.bennett(ahead, behind),
    }
    below, above = tj.diagnostics.elbo(ahead).value, tj.diagnostics.eubo(behind).value
    print(f"{name}: ELBO {below:.3f} <= log Z = {LOG_Z} <= EUBO {above:.3f}")
    for label, (value, stderr) in estimates.items():
        print(f"    {label:24}{value:.4f} +- {stderr:.4f}")
        assert abs(value - LOG_Z) < 5 * stderr
    assert estimates["Bennett"].stderr <= 1.02 * min(e.stderr for e in estimates.values())

# %%
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
coarse, fine = pairs["Gaussian base"][0], pairs["Gaussian base"][-1]
left.plot(*coarse, ".", color="tab:gray", markersize=4, label=f"{STEPS[0]} steps")
left.plot(*fine, ".", color="tab:blue", markersize=4, label=f"{STEPS[-1]} steps")
left.axline((0, 0), slope=1, color="black", linewidth=0.8)
left.set(xlabel="Crooks log weight", ylabel="Jarzynski work", title="Gaussian base, path by path")
left.legend(loc="upper left")
for name in problems:
    middle.loglog(STEPS, spread[name], "o-", color=colors[name], label=name)
middle.loglog(
    STEPS, spread["Gaussian base"][0] * (np.array(STEPS) / STEPS[0]) ** -0.5, ":", color="black", label="steps$^{-1/2}$"
)
middle.set(xlabel="steps", title="sd of (Crooks - Jarzynski)")
middle.set_ylim(top=2 * middle.get_ylim()[1])
middle.legend(loc="upper right")
crossing = crossings["pretrained mixture base"]
right.stairs(crossing.forward, crossing.edges, color="tab:blue", fill=True, alpha=0.45, label="forward: the sampler")
right.stairs(crossing.backward, crossing.edges, color="tab:red", fill=True, alpha=0.45, label="backward: the tilt")
right.axvline(LOG_Z, color="black", label="log Z")
seen = np.asarray(crossing.edges[:-1])[np.asarray(crossing.forward + crossing.backward) > 2e-3]
right.set(
    xlabel="log weight", ylabel="density", xlim=(seen.min(), seen.max()), title="pretrained base: work of both directions"
)
right.set_ylim(top=1.35 * right.get_ylim()[1])
_ = right.legend(loc="upper right")
