"""A checkpoint of another density is refused; a density without a finite width is too."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
import support

import tiltjax as tj
from tiltjax import identity

SMALL = functools.partial(tj.networks.mlp, width=8, depth=1)
REPLAY = tj.Replay(64, 128, 5, 32, tj.weights.tempered(0.2))


def problem(centre):
    process = tj.processes.gaussian(tj.paths.linear(), (2,))
    return tj.problems.tilt(process, lambda x: -jnp.sum(jnp.square(x - centre)), resolution=0.1)


def fit(centre, directory, **options):
    settings = {"network": SMALL, "replay": REPLAY, "num_updates": 10, "num_steps": 5, "progress": False, **options}
    return support.fit(jax.random.key(0), problem(centre), checkpoint=directory, **settings)


def test_a_checkpoint_belongs_to_its_density_and_settings(tmp_path):
    first = fit(0.5, tmp_path / "run")
    again = fit(0.5, tmp_path / "run")  # the same fit: read back, not refused
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), first.params, again.params)))
    with pytest.raises(ValueError, match=r"another run.*density"):
        fit(0.6, tmp_path / "run")
    with pytest.raises(ValueError, match="another run"):
        fit(0.5, tmp_path / "run", learning_rate=1e-3)
    with pytest.raises(ValueError, match="another run"):
        fit(0.5, tmp_path / "run", replay=REPLAY._replace(weighting=tj.weights.tempered(0.3)))
    with pytest.raises(ValueError, match="another run"):
        fit(0.5, tmp_path / "run", optimizer=optax.nadam)  # a state of the same shape
    with pytest.raises(ValueError, match="another run"):
        moved = functools.partial(tj.losses.minimum_variance, rejuvenation=tj.losses.Rejuvenation(1, 1))
        fit(0.5, tmp_path / "run", loss=moved)


@pytest.mark.slow
def test_seconds_between_checkpoints(tmp_path, capsys):
    """0: after every round of 100 updates, of which the newest two are kept; infinity: at the end alone."""
    options = {"num_updates": 300, "replay": REPLAY._replace(gradient_steps=100), "progress": True}
    for seconds, saves in ((0.0, ["2", "3"]), (float("inf"), ["3"])):
        directory = tmp_path / str(seconds)
        fit(0.5, directory, checkpoint_seconds=seconds, **options)
        assert sorted(p.name for p in directory.iterdir() if p.name.isdigit()) == saves
        assert "300/300" in capsys.readouterr().out  # the bar counts updates, as num_updates does
    with pytest.raises(ValueError, match=r"time between saves, 0 or more; got -1\.0"):
        fit(0.5, tmp_path / "negative", checkpoint_seconds=-1.0)


def test_a_saved_sampler_is_no_checkpoint(tmp_path):
    network = SMALL(problem(0.5))
    tj.sampling.sampler(problem(0.5), network, network.init(jax.random.key(0)), tj.paths.uniform).save(tmp_path / "saved")
    with pytest.raises(ValueError, match="holds a saved sampler"):
        fit(0.5, tmp_path / "saved")


def test_a_density_that_does_not_normalize_is_refused(monkeypatch):
    monkeypatch.setattr(tj.pilot, "pilot", functools.partial(tj.pilot.pilot, num_particles=64))
    with pytest.raises(FloatingPointError, match="finite width"):
        tj.fit(jax.random.key(0), tj.Target(lambda x: 0.0 * jnp.sum(x), shape=(2,)), progress=False)


def test_the_inner_loss_tells_checkpoints_apart():
    """Both learn as much beside the network."""
    inner = (tj.losses.novel_score_matching, tj.losses.target_score_matching)
    told = [identity.told(functools.partial(tj.losses.learned_variance, loss=loss)) for loss in inner]
    assert told == [f"learned_variance {{'loss': '{loss.__name__} '}}" for loss in inner]
