# %% [markdown]
# # How large are the labels of adjoint matching?
#
# The lean adjoint along a path of any control, $\dot a = -(\nabla b)^\top a$ with $a_1 = -\nabla r(X_1)$ and $b$ the drift of
# the
# *base*, is what adjoint matching regresses on. Two bounds hold along every path.
#
# - **Grönwall**, for any base: $|a_t| \le \exp\big(\int_t^1 \mu\,ds\big)\,|\nabla r(X_1)|$ with $\mu$ the largest eigenvalue
#   of the symmetric part of
#   $\nabla b$ along the path. On a grid: the product of the largest singular values of the steps' Jacobians.
# - **Strongly log-concave bases**, $-\nabla^2 \log p_{\text{base}} \succeq m I$:
#   $|a_t| \le \dfrac{\alpha_t}{\alpha_t^2 + m \beta_t^2}\, |\nabla r(X_1)|$, which is 0 at $t = 0$ and 1 at $t = 1$, with
#   equality for the
#   Gaussian $N(0, I/m)$.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import tiltjax as tj

SMALL = os.environ.get("TILTJAX_NOTEBOOK_SIZE") == "small"  # for the tests: seconds instead of minutes
plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})

M = 0.5  # of the base: it is at least as log-concave as N(0, I / M)
SCALE = M**-0.5
STEPS, NUM = (20, 50) if SMALL else (60, 300)
PATHS = {
    "linear": tj.paths.linear(),
    "trigonometric": tj.paths.trigonometric(),
    "Brownian": tj.paths.brownian(sigma=SCALE),
    "geometric": tj.paths.geometric(
        SCALE * np.sqrt(2 * np.log(4) / (1 - 1 / 16)), SCALE * np.sqrt(2 * np.log(4) / (1 - 1 / 16)) / 4
    ),
}


def reward(x):  # not concave, and a control that nobody trained: the bounds ask nothing of either
    return -0.4 * jnp.sum((x - 1) ** 2) + jnp.sin(3 * x[0] + x[1])


def control(t, x):
    return jnp.sin(2 * x[::-1] + t)


def norms_of(process):
    """Times, and |a_t| / |grad r(X_1)| and its Groenwall bound on NUM paths."""
    problem = tj.problems.tilt(process, reward)
    times = tj.paths.log_snr(process.frame, STEPS, 0.02)
    found = jax.jit(lambda key: tj.diagnostics.adjoint_norm(problem, control, times, key, NUM))(jax.random.key(0))
    return times, np.asarray(found.norm / found.norm[:, -1:]), np.asarray(found.bound / found.norm[:, -1:])


# %% [markdown]
# ## A Gaussian base: the three are one

# %%
gaussian = {}
for name, path in PATHS.items():
    times, norm, groenwall = norms_of(tj.processes.gaussian(path, (2,), SCALE))
    bound = np.asarray(tj.diagnostics.log_concave_bound(path, M, times))
    gaussian[name] = times, norm, bound
    largest = max(np.abs(norm - bound).max(), np.abs(groenwall - bound).max())
    print(f"{name:14} largest difference on {NUM} paths: {largest:.1e}")
    assert largest < 1e-5

# %% [markdown]
# ## A base that is log-concave but not Gaussian
#
# $$p_{\text{base}}(x) \propto \exp\big(-\tfrac m2 |x|^2 - c\,\mathrm{softplus}(k\, w \cdot x)\big), \qquad |w| = 1.$$
#
# softplus is convex, so $-\nabla^2 \log p_{\text{base}} = m I + c k^2 \sigma(1 - \sigma)\, w w^\top \succeq m I$, $\sigma = $
# sigmoid$(k\,w\cdot x)$; across
# $w$ it is exactly $m$, so this is the best $m$.
#
# It is known to the library by its denoiser alone. Given $X_t = x$ the Gaussian factor has the posterior $N(\mu, P I)$ with
# $\mu = \frac{\alpha}{\alpha^2 + m\beta^2} x$ and $P = \frac{\beta^2}{\alpha^2 + m\beta^2}$; along $w$ the softplus reweights
# it, by quadrature over Gauss-Hermite nodes.
#
# *On a grid the bound still holds, step by step.* A step of `processes.pretrained` with scale $1/\sqrt m$ has the Jacobian
# $[\Phi_t + (R_t - R_{t'}) (D' - \Phi_t)/R_t]/\Phi_{t'}$, where $D' = \frac{\alpha}{\beta^2}\mathrm{Cov}[X_1|X_t]$ lies
# between $0$ and $\Phi_t$ (Brascamp-Lieb). So it
# lies between 0 and $\Phi_t/\Phi_{t'}$, and the product telescopes to $\Phi_t = \alpha_t/(\alpha_t^2 + m\beta_t^2)$.

# %%
C, K = 6.0, 2.5
W = jnp.array([0.8, 0.6])
NODES, MASS = (jnp.asarray(v, jnp.float32) for v in np.polynomial.hermite_e.hermegauss(64))


def denoiser_on(path):
    def denoiser(t, x):
        mean = tj.diagnostics.log_concave_bound(path, M, t) * x
        spread = path.noise2(t) / (path.signal2(t) + M * path.noise2(t))
        along = jnp.sqrt(spread) * NODES
        weight = jax.nn.softmax(jnp.log(MASS) - C * jax.nn.softplus(K * (jnp.sum(W * mean) + along)))
        return mean + W * jnp.sum(weight * along)

    return denoiser


concave = {}
for name, path in PATHS.items():
    process = tj.processes.pretrained(path, (2,), denoiser=denoiser_on(path), scale=SCALE)
    times, norm, groenwall = norms_of(process)
    bound = np.asarray(tj.diagnostics.log_concave_bound(path, M, times))
    concave[name] = times, norm, bound
    over, under = (norm - bound).max(), (norm[:, 1:-1] / bound[1:-1]).min()
    print(f"{name:14} largest |a| - bound: {over:+.1e}; the least |a| is {under:.2f} of its bound")
    assert (norm <= groenwall + 1e-5).all() and (norm <= bound + 1e-5).all()
    assert (groenwall <= bound + 1e-5).all()
    assert under < 0.9  # the bound is not an equality here

# %% [markdown]
# Are its steps really draws of that base? The mean of $w \cdot X_1$ beside quadrature of the density.

# %%
process = tj.processes.pretrained(PATHS["trigonometric"], (2,), denoiser=denoiser_on(PATHS["trigonometric"]), scale=SCALE)
times = tj.paths.log_snr(process.frame, 200, 0.02)
idle = jax.jit(jax.vmap(lambda key: tj.sde.simulate(process, lambda t, x: 0 * x, times, key).x))
ends = idle(jax.random.split(jax.random.key(1), 2000)) @ W
line = jnp.linspace(-8, 4, 2001)
density = jnp.exp(-0.5 * M * line**2 - C * jax.nn.softplus(K * line))
density = density / (density.sum() * (line[1] - line[0]))
true_mean = float(jnp.sum(line * density) / jnp.sum(density))
stderr = float(ends.std() / np.sqrt(ends.size))
print(f"mean {ends.mean():.4f} +- {stderr:.4f}, quadrature {true_mean:.4f}")
assert abs(ends.mean() - true_mean) < 5 * stderr  # the bias of 200 steps is less

# %% [markdown]
# ## A base with two modes has no such bound
#
# Between the modes $\nabla b$ has a positive eigenvalue, and labels grow backwards in time. Grönwall's bound, path by path,
# says by how much.

# %%
nominal = tj.processes.gaussian(PATHS["geometric"], (2,), SCALE)
mixture = tj.exact.Mixture(jnp.array([[-1.2, -0.6], [1.2, 0.6]]), 0.1, jnp.array([0.5, 0.5]))
mixture_times, mixture_norm, mixture_groenwall = norms_of(tj.exact.mixture_base(nominal, mixture))
print(f"largest |a_t| / |a_1| {mixture_norm.max():.2f}, largest bound {mixture_groenwall.max():.2f}")
assert (mixture_norm <= mixture_groenwall * (1 + 1e-5)).all()
assert mixture_norm.max() > 1.5

# %%
figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
for axis, name in zip(axes, ("linear", "trigonometric", "geometric"), strict=False):
    times, norm, bound = concave[name]
    axis.plot(times, norm[:25].T, color="tab:blue", linewidth=0.7, alpha=0.6)
    axis.plot([], [], color="tab:blue", label="25 paths")
    axis.plot(times, bound, color="black", linewidth=2, label="bound (= Gaussian base)")
    axis.set(xlabel="t", title=f"log-concave base, {name}", ylim=(0, None))
axes[0].set_ylabel(r"$|a_t|\; / \;|\nabla r(X_1)|$")
top = max(axis.get_ylim()[1] for axis in axes[:3])
for axis in axes[:3]:
    axis.set_ylim(0, 1.25 * top)
axes[0].legend(loc="upper left")
high = np.argsort(mixture_norm.max(axis=1))[-10:]
axes[3].plot(mixture_times, mixture_norm[high].T, color="tab:orange", linewidth=1)
axes[3].plot(mixture_times, mixture_groenwall[high].T, ":", color="black", linewidth=0.9)
axes[3].plot([], [], color="tab:orange", label=f"the 10 largest of {NUM} paths")
axes[3].plot([], [], ":", color="black", label="their Grönwall bounds")
axes[3].set(xlabel="t", title="base with two modes, geometric", ylim=(0, 1.35 * mixture_groenwall.max()))
_ = axes[3].legend(loc="upper right")
