"""The demonstration's picture: draws over the density, how training went, the weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.cases import CASES
from benchmarks.runner import Trial

# Okabe and Ito's palette: told apart with any colour vision
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#5f5f5f"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
SHOWN = 4000


def save(path: Path, trial: Trial) -> None:
    """Writes the picture as PNG, 2025 by 1050 pixels."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13.5, 7))
        plane = figure.add_gridspec(1, 1, left=0.05, right=0.485, top=0.95, bottom=0.13)
        curves = figure.add_gridspec(3, 1, left=0.56, right=0.985, top=0.95, bottom=0.53, hspace=0.16)
        histogram = figure.add_gridspec(1, 1, left=0.56, right=0.985, top=0.41, bottom=0.075)
        draws(figure.add_subplot(plane[0]), trial)
        training([figure.add_subplot(row) for row in (curves[0], curves[1], curves[2])], trial)
        log_weights(figure.add_subplot(histogram[0]), trial)
        figure.savefig(path, dpi=150)


def draws(ax: Axes, trial: Trial) -> None:
    """Resampled draws over contours of the density, and the means of its modes."""
    case = CASES[trial.line["case"]]
    target = case.target()
    x = np.asarray(trial.resampled[:: max(1, len(trial.resampled) // SHOWN)])
    span = 48.0
    side = jnp.linspace(-span, span, 400)
    first, second = jnp.meshgrid(side, side)
    density = jax.jit(jax.vmap(jax.vmap(target.log_density)))(jnp.stack([first, second], axis=-1))
    below = float(density.max()) - density
    ax.contourf(first, second, below, levels=[0, 1.5, 4, 8, 16], colors=["#a3a3a3", "#c4c4c4", "#dedede", "#f0f0f0"])
    ax.plot(*x.T, ".", color=BLUE, markersize=2.4, alpha=0.5, markeredgewidth=0, label=f"{len(x)} resampled draws")
    if case.components is not None:
        means = np.asarray(case.components().means)
        ax.plot(*means.T, "+", color=ORANGE, markersize=7, markeredgewidth=1.4, label="means of the modes")
    ax.fill([], [], color="#c4c4c4", label="log density to 1.5, 4, 8, 16 below its top")
    ax.set(
        xlim=(-span, span), ylim=(-span, span), xlabel="$x_1$", ylabel="$x_2$", aspect="equal", title="Draws over the density"
    )
    legend = ax.legend(
        loc="upper left", bbox_to_anchor=(-0.04, -0.075), ncols=3, fontsize=9, handletextpad=0.5, columnspacing=1.2
    )
    for handle in legend.get_lines()[:1]:
        handle.set(markersize=8, alpha=1.0)


def training(axes: Sequence[Axes], trial: Trial) -> None:
    """Loss, log Z and ESS of the particles collected in each round, against updates."""
    assert trial.sampler is not None and trial.sampler.report.history is not None
    history, line = trial.sampler.report.history, trial.line
    loss = np.asarray(history.loss)
    updates = np.arange(1, len(loss) + 1) * (line["arguments"]["num_updates"] / len(loss))
    curves = ((loss, "loss", BLUE), (np.asarray(history.log_z), "log Z", GREEN), (np.asarray(history.ess), "ESS", ORANGE))
    for ax, (values, name, colour) in zip(axes, curves, strict=True):
        ax.plot(updates, values, color=colour, linewidth=1.3)
        ax.set_ylabel(name)
        ax.set_xlim(0, updates[-1])
        ax.tick_params(labelbottom=ax is axes[-1])
    axes[0].figure.align_ylabels(axes)
    axes[0].set_title("Training: each round's new particles")
    axes[1].axhline(0.0, color=GREY, linewidth=0.9, linestyle="--")
    axes[1].text(0.995, 0.04, "dashed: exact", transform=axes[1].transAxes, ha="right", va="bottom", color=GREY, fontsize=8)
    axes[2].set_ylim(0, 1)
    axes[2].set_xlabel("updates")


def log_weights(ax: Axes, trial: Trial) -> None:
    """The histogram of log w, with ELBO, exact log Z and EUBO: a perfect control on an infinitely fine grid has one value."""
    values, line = np.asarray(trial.draws.log_weight), trial.line
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [0.005, 0.999])
    edges = np.linspace(low - 0.5, high + 0.5, 90).tolist()
    ax.hist(values, edges, weights=np.full(len(values), 1 / (len(values) * (edges[1] - edges[0]))), color=BLUE, alpha=0.7)
    ax.set_xlim(edges[0], edges[-1])
    for name, colour, style in (("elbo", ORANGE, "--"), ("log_z", "black", "-"), ("eubo", GREEN, ":")):
        if line[name] is not None:
            label = {"elbo": "ELBO", "log_z": "log Z", "eubo": "EUBO"}[name]
            ax.axvline(line[name], color=colour, linestyle=style, linewidth=1.6, label=f"{label} = {line[name]:.3f}")
    ceiling = "" if line["ess_ceiling"] is None else f" (ceiling of this grid {line['ess_ceiling']:.2f})"
    ax.set(xlabel="log weight of a draw", ylabel="density", title=f"Log weights: ESS {line['ess']:.2f}{ceiling}")
    ax.legend(loc="upper left")
