"""Weighted draws for ArviZ."""

from typing import Any

import jax
import numpy as np

from tiltjax import diagnostics, weights

from ..types import Key, Samples, Target


def to_arviz(key: Key, samples: Samples, target: Target | None = None, *, num_draws: int | None = None, **options: Any) -> Any:
    """Weighted draws as an `xarray.DataTree` with the group `posterior`: one chain of draws of equal weight.

    ArviZ knows no weights, so particle i is drawn about num_draws w_i times (systematic resampling; default as many as
    there are). Copies stay side by side, so that ArviZ's own effective sample size sees them. The sites are what
    `target.constrain` names (NumPyro's, say), else the array is `x`. `options` go to `arviz_base.from_dict` (dims, coords).

    The group's attributes: `log_evidence` (log Z), `log_evidence_stderr`, and `effective_sample_size` in draws, that of the
    weights. When not to use it: for numbers. `diagnostics.expectation` on the weighted draws has less variance.
    Raises ValueError when no weight is finite. Needs the extra `arviz`.
    """
    import arviz_base

    if not np.isfinite(samples.log_weight).any():
        raise ValueError("no draw has a finite log weight: there is nothing to resample. Was the target finite anywhere?")
    count = len(samples.log_weight) if num_draws is None else num_draws
    x = samples.x[weights.resample(key, samples.log_weight, count)]
    named = x if target is None or target.constrain is None else jax.vmap(target.constrain)(x)
    sites = named if isinstance(named, dict) else {"x": named}
    log_z, ess = diagnostics.log_z(samples.log_weight), diagnostics.ess(samples.log_weight)
    told = {
        "log_evidence": float(log_z.value),
        "log_evidence_stderr": float(log_z.stderr),
        "effective_sample_size": float(ess) * len(samples.log_weight),
    }
    data = {"posterior": {name: np.asarray(value)[None] for name, value in sites.items()}}
    return arviz_base.from_dict(data, attrs={"posterior": told}, **options)
