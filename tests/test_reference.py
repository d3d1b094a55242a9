"""Reference draws: chains that find a known answer, kept files that are what their checksums say, DW-4's known statistics."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from support import z_scores

import tiltjax as tj
from benchmarks import cases, chains, metrics, reference
from benchmarks.__main__ import parser


def double_well(x):
    """DW-4 from its formula, particle pair by particle pair."""
    energy = 0.0
    for i in range(4):
        for j in range(i):
            d = jnp.sqrt(jnp.sum((x[i] - x[j]) ** 2))
            energy += 0.9 * (d - 4) ** 4 - 4 * (d - 4) ** 2
    return -energy


def lennard_jones(x):
    """LJ from its formula: ordered pairs, and the harmonic trap about the mean."""
    n = len(x)
    r2 = jnp.sum((x[:, None] - x[None]) ** 2, -1) + jnp.eye(n, dtype=x.dtype)
    inverse = (1 - jnp.eye(n, dtype=x.dtype)) / r2**3
    return -jnp.sum(inverse**2 - 2 * inverse) - 0.5 * jnp.sum((x - x.mean(0)[None]) ** 2)


def z_of_mean(x, exact, ess):
    return (x.mean() - exact) / (x.std() / math.sqrt(ess))


# --------------------------------------------------------------------------------------------------- chains


@pytest.mark.slow
def test_replica_exchange_finds_both_wells():
    """Two wells 8 kT apart in height of barrier, of weights 3 : 1, from starts that all lie in the lesser one."""
    log_weight = math.log(3.0)

    def log_density(x):
        right, left = -0.5 * jnp.sum((x - 4) ** 2), -0.5 * jnp.sum((x + 4) ** 2)
        return jnp.logaddexp(right + log_weight, left)

    ladder = chains.Ladder((1.0, 0.4, 0.12), leapfrog=5, warm_up=300, thin=5)
    start = -4.0 + 0.1 * jax.random.normal(jax.random.key(0), (32, 1))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        out = chains.replica_exchange(ladder)(log_density, start, jax.random.key(1), 300)
    right = np.asarray(out.x[..., 0] > 0, float).mean(1)
    assert abs(z_scores(right, 0.75)) < 5
    assert abs(z_scores(np.asarray(out.x).mean((1, 2)), 4 * 0.5)) < 5
    second = np.asarray(out.x[..., 0] ** 2).mean(1)
    assert abs(z_scores(second, 17.0)) < 5
    assert np.all((np.asarray(out.acceptance) > 0.7) & (np.asarray(out.acceptance) < 0.9))
    assert np.all(np.asarray(out.swaps) > 0.2) and out.swaps.shape == (2,)


@pytest.mark.slow
def test_nuts_has_the_moments_of_a_gaussian():
    """Of shape (2, 2), means and scales of their own."""
    mean, scale = jnp.asarray([[1.0, -2.0], [0.0, 3.0]]), jnp.asarray([[0.5, 1.0], [2.0, 1.0]])
    start = 3.0 * jax.random.normal(jax.random.key(0), (16, 2, 2))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        out = chains.nuts(warm_up=150)(lambda x: -0.5 * jnp.sum(((x - mean) / scale) ** 2), start, jax.random.key(1), 200)
    assert out.x.shape == (16, 200, 2, 2) and out.acceptance.shape == out.step_size.shape == (16,)
    standard = (np.asarray(out.x) - np.asarray(mean)) / np.asarray(scale)
    assert np.abs(z_scores(standard.mean(1), 0.0)).max() < 5
    assert np.abs(z_scores((standard**2).mean(1), 1.0)).max() < 5


@pytest.mark.slow
def test_the_centre_is_held_and_removed():
    """Two particles on a spring: the distance is known, the centre is exactly zero, the harmonic term leaves no trace."""
    target = tj.Target(lambda x: -0.5 * jnp.sum((x[0] - x[1]) ** 2) / 4.0, (2, 3))
    run = chains.replica_exchange(chains.Ladder((1.0, 0.5), leapfrog=5, warm_up=300, thin=4))
    made = reference.make(target, reference.Recipe(run, 8), jax.random.key(0), 3200, reference.particles())
    np.testing.assert_allclose(made.x.mean(1), 0.0, atol=1e-12)
    square = np.sum((made.x[:, 0] - made.x[:, 1]) ** 2, 1)  # 4 chi^2 of 3 degrees of freedom
    assert abs(z_of_mean(square, 12.0, made.record["ess_bulk"])) < 5
    assert abs(z_of_mean(square**2, 16 * 15.0, made.record["ess_bulk"])) < 5


def test_scrambled_particles_have_the_same_density_and_every_label_and_orientation():
    x = jax.random.normal(jax.random.key(0), (4, 2))
    images = jax.vmap(reference.particles().scramble, (0, None))(jax.random.split(jax.random.key(1), 4000), x)
    np.testing.assert_allclose(jax.vmap(double_well)(images), np.full(4000, double_well(x)), rtol=1e-9)
    first = np.asarray(jnp.linalg.norm(images[:, 0], axis=1))
    for radius in np.asarray(jnp.linalg.norm(x, axis=1)):  # the first particle is each of the four alike
        assert abs(np.isclose(first, radius).mean() - 0.25) < 5 * math.sqrt(3 / 16 / 4000)
    turned = np.linalg.det(np.asarray(images[:, :2])) > 0
    assert abs(turned.mean() - 0.5) < 5 * 0.5 / math.sqrt(4000)


def test_chains_that_leave_the_numbers_are_no_reference():
    target = tj.Target(lambda x: jnp.sum(x**4), (2,))
    recipe = reference.Recipe(lambda f, start, key, n: chains.Chains(start[:, None] / 0.0, *[jnp.zeros(1)] * 3), 4)
    with pytest.raises(RuntimeError, match="a chain of the reference is not finite"):
        reference.make(target, recipe, jax.random.key(0), 4)


def test_rhat_sees_chains_that_disagree():
    x = np.random.default_rng(0).normal(size=(4, 200, 3))
    same = reference.statistics(jnp.asarray(x), np.sum(x**2, -1).ravel(), reference.FREE)
    x[0, :, 1] += 1.0
    apart = reference.statistics(jnp.asarray(x), np.sum(x**2, -1).ravel(), reference.FREE)
    assert same["rhat"] < 1.03 < 1.1 < apart["rhat"]
    assert apart["ess_bulk"] < 100 < 500 < same["ess_bulk"]


# ---------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("centred", [False, True])
def test_what_is_written_is_read(tmp_path, centred):
    x = np.random.default_rng(0).normal(size=(50, 4, 2)) * np.asarray([1.0, 100.0])
    x = x - x.mean(1, keepdims=True) if centred else x
    reference.write(tmp_path, "one", reference.Reference(x, {"seed": 3}), centred)
    reference.write(tmp_path, "two", reference.Reference(x[:7], {}), centred)
    back = reference.read(tmp_path, "one")
    assert back.record == {"seed": 3}
    np.testing.assert_allclose(back.x, x, atol=3e-2, rtol=0)
    np.testing.assert_allclose(back.x[..., 0], x[..., 0], atol=6e-4, rtol=0)  # each coordinate has its own unit
    assert set(reference.checksums(tmp_path)) == {"one.npz", "one.json", "two.npz", "two.json"}


def test_kept_references_are_small_and_what_their_checksums_say():
    kept = {file.name for file in reference.KEPT.iterdir()} - {reference.CHECKSUMS}
    sums = reference.checksums(reference.KEPT)
    assert kept == set(sums) and kept
    for name in kept:
        assert reference.digest(reference.KEPT / name) == sums[name], name
        assert (reference.KEPT / name).stat().st_size <= 600_000, name
        if name.endswith(".json"):
            record = json.loads((reference.KEPT / name).read_text())
            assert record["rhat"] < 1.01 and record["ess_bulk"] > 1000, name
            assert {"seed", "versions", "acceptance", "swaps", "chains", "energy_mean", "energy_sd"} <= set(record), name


def test_draws_do_not_repeat_until_all_are_used():
    sample = reference.Kept(np.arange(10.0)[:, None])
    assert sorted(sample(jax.random.key(0), 10)[:, 0]) == list(range(10))
    assert len(np.unique(sample(jax.random.key(1), 6))) == 6
    assert [int(n) for n in np.unique(sample(jax.random.key(2), 20), return_counts=True)[1]] == [2] * 10
    kept = tj.Target(double_well, (4, 2), sample=sample)
    assert [reference.at_most(target, 20) for target in (kept, tj.targets.gmm40())] == [10, 20]


def test_a_target_without_draws_gets_those_of_its_case(tmp_path):
    target = tj.Target(double_well, (4, 2))
    equipped = reference.equip("dw4", target, tmp_path)
    assert equipped.sample(jax.random.key(0), 30).shape == (30, 4, 2)
    exact = tj.targets.gmm()
    assert reference.equip("dw4", exact) is exact
    assert reference.equip("nothing", target, tmp_path) is target
    with pytest.raises(FileNotFoundError, match="python -m benchmarks reference nothing"):
        reference.reference("nothing", tmp_path)
    reference.write(tmp_path, "dw4", reference.Reference(np.zeros((3, 4, 2)), {"seed": 9}), True)
    assert reference.reference("dw4", tmp_path).record == {"seed": 9}  # what one made oneself comes first


def test_the_command_writes_draws_and_record(tmp_path, monkeypatch, capsys):

    def run(log_density, start, key, draws):
        x = jax.random.normal(key, (len(start), draws, 4, 2))
        return chains.Chains(x, *[jnp.asarray([0.5, 0.25])] * 3)

    monkeypatch.setitem(reference.RECIPES, "dw4", reference.Recipe(run, 4))
    reference.command("dw4", tj.Target(double_well, (4, 2)), 5, 40, tmp_path, Console(width=100))
    record = json.loads((tmp_path / "dw4.json").read_text())
    assert record["seed"] == 5 and record["case"] == "dw4" and record["draws"] == 40
    assert reference.read(tmp_path, "dw4").x.shape == (40, 4, 2)
    assert "energy_mean" in capsys.readouterr().out
    options = parser().parse_args(["reference", "gmm40", "--seed", "3", "--draws", "9"])
    assert (options.command, options.seed, options.draws) == ("reference", 3, 9)


# ------------------------------------------------------------------------------------------- DW-4 and LJ-13


def test_the_kept_double_wells_have_the_known_energies():
    """Random-walk Metropolis of 6000 chains gives -22.535 +- 0.012 and 1.912 (published: -22.45, 1.90, of fewer draws).

    The record agrees with the stored draws, rounded as they are; so does the virial theorem: E x . grad U is 6, the dimension.
    """
    x, record = reference.reference("dw4", reference.KEPT)
    assert len(x) >= 20_000
    energy = metrics.energies(tj.Target(double_well, (4, 2)), jnp.asarray(x))
    assert abs(energy.mean() - record["energy_mean"]) < 0.005 and abs(energy.std() - record["energy_sd"]) < 0.005
    assert abs(energy.mean() + 22.535) < 5 * math.hypot(record["energy_stderr"], 0.012)
    assert abs(energy.mean() + 22.45) < 0.1 and abs(energy.std() - 1.90) < 0.05
    virial = -np.sum(x * np.asarray(jax.vmap(jax.grad(double_well))(jnp.asarray(x))), (1, 2))
    assert abs(z_of_mean(virial, 6.0, record["ess_bulk_energy"])) < 5
    assert energy.min() == pytest.approx(-25.7, abs=0.1)
    np.testing.assert_allclose(x.mean(1), 0.0, atol=1e-9)


def test_the_kept_lennard_jones_clusters_have_the_known_energies():
    """-43.1, standard deviation 7.0 (published, of this convention); the virial theorem: E x . grad U is 36, the dimension."""
    x, record = reference.reference("lj13", reference.KEPT)
    energy = metrics.energies(tj.Target(lennard_jones, (13, 3)), jnp.asarray(x))
    assert abs(energy.mean() - record["energy_mean"]) < 0.05 and abs(energy.std() - record["energy_sd"]) < 0.05
    assert abs(z_of_mean(energy, -43.1, record["ess_bulk_energy"])) < 5
    assert abs(z_of_mean((energy - energy.mean()) ** 2, 7.0**2, record["ess_bulk_energy"])) < 5
    virial = -np.sum(x * np.asarray(jax.vmap(jax.grad(lennard_jones))(jnp.asarray(x))), (1, 2))
    assert abs(z_of_mean(virial, 36.0, record["ess_bulk_energy"])) < 5


OTHERS = sorted(file.stem for file in reference.KEPT.glob("*.npz") if file.stem not in ("dw4", "lj13"))


@pytest.mark.parametrize("case", OTHERS)
def test_other_kept_references_obey_the_virial_theorem(case):
    """E x.grad U is the dimension, for every density that falls off; and the record agrees with the draws as stored."""
    target, (x, record) = cases.CASES[case].target(), reference.reference(case, reference.KEPT)
    x = jnp.asarray(x)
    assert len(x) == record["draws"] == 4000 and record["case"] == case
    energy = metrics.energies(target, x)
    assert abs(energy.mean() - record["energy_mean"]) < 0.05 and abs(energy.std() - record["energy_sd"]) < 0.05
    slope = jax.jit(jax.vmap(jax.grad(target.log_density)))(x)
    virial = -np.sum((np.asarray(x) * np.asarray(slope)).reshape(len(x), -1), 1)
    assert abs(z_of_mean(virial, math.prod(target.shape), record["ess_bulk"])) < 5


def test_the_kept_lattice_has_the_known_magnetization():
    """Mean |m| of 8 x 8 at k = 0.3 is 2.087 (published), and both phases weigh the same."""
    x, record = reference.reference("phi4_8x8", reference.KEPT)
    m = np.mean(x, axis=(1, 2))
    assert abs(z_of_mean(np.abs(m), 2.087, record["ess_bulk"])) < 5
    assert abs(z_of_mean(np.sign(m), 0.0, record["ess_bulk"])) < 5


def test_the_floors_of_the_double_wells():
    """At n = 2000: energy W2 0.10 +- 0.03, pair distances 0.045."""
    x = reference.reference("dw4", reference.KEPT).x
    target = tj.Target(double_well, (4, 2), sample=reference.Kept(x))
    energy = metrics.floors(jax.random.key(0), lambda a, b: metrics.energy_w2(target, a, b), target.sample, 2000, 20)
    assert abs(np.median(energy) - 0.10) < 0.03
    pairs = metrics.floors(jax.random.key(0), metrics.pair_distance_w2, target.sample, 2000, 20)
    assert abs(np.median(pairs) - 0.045) < 0.02
