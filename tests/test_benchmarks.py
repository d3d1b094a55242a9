"""The benchmarks: metrics against slow, obvious versions, complete result lines, the demonstration at a tiny size."""

import functools
import itertools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from rich.console import Console

import tiltjax as tj
from benchmarks import cases, ceiling, classical, families, methods, metrics, migrate, posteriors, report, runner, speed
from benchmarks.__main__ import main, parser
from benchmarks.demo import demo
from benchmarks.demo import table as demo_table
from tiltjax import smc

QUIET = Console(quiet=True)
RESULTS = pathlib.Path(migrate.__file__).with_name("results")
DESIGN = """
    case method seed ess log_z log_z_stderr log_z_error elbo eubo mode_total_variation energy_w2 energy_w2_floor train_seconds
    compile_seconds energy_evaluations gradient_evaluations peak_memory_mb nonfinite_updates device revision arguments
""".split()  # noqa: SIM905
TINY = {
    "num_updates": 20,
    "num_steps": 5,
    "training": tj.Training(sampling_steps=10, replay=tj.Replay(64, 128, 10, 32, tj.weights.tempered(0.2))),
    "network": lambda problem: tj.networks.mlp(problem, width=8, depth=1),
}


@pytest.fixture(autouse=True)
def tiny_budget(monkeypatch):
    monkeypatch.setitem(cases.BUDGETS, "smoke", cases.Budget({}, num_draws=200, floor_pairs=2))


# ------------------------------------------------------------------------------------------------ metrics


def test_wasserstein_is_the_least_over_all_pairings():
    a, b = np.random.default_rng(0).normal(size=(2, 6))
    best = min(np.mean((a - b[list(order)]) ** 2) for order in itertools.permutations(range(6)))
    assert metrics.wasserstein_1d(a, b) == pytest.approx(math.sqrt(best), abs=1e-12)


def test_wasserstein_agrees_with_optimal_transport():
    ot = pytest.importorskip("ot")
    a, b = np.random.default_rng(1).normal(size=(2, 300)) * np.array([[1.0], [3.0]])
    assert metrics.wasserstein_1d(a, b) == pytest.approx(math.sqrt(ot.wasserstein_1d(a, b, p=2)), abs=1e-6)
    plan = ot.emd2([], [], ot.dist(a[:, None], b[:, None]))
    assert metrics.wasserstein_1d(a, b) == pytest.approx(math.sqrt(plan), abs=1e-6)


def test_wasserstein_refuses_sets_of_different_size():
    with pytest.raises(ValueError, match=r"two vectors of one length; got shapes \(3,\) and \(2,\)"):
        metrics.wasserstein_1d(np.zeros(3), np.zeros(2))


def test_mode_total_variation_by_counting():
    target = tj.targets.gmm([[-5.0, 0.0], [5.0, 0.0]], 0.5, [0.25, 0.75])
    x = jnp.asarray([[-5.0, 0.0], [5.0, 0.1], [4.0, 0.0], [-4.0, 0.0]])
    assert metrics.mode_total_variation(target, x) == pytest.approx(0.25)
    weight = jnp.log(jnp.asarray([1.0, 6.0, 3.0, 2.0]))
    assert metrics.mode_total_variation(target, x, weight) == pytest.approx(0.0, abs=1e-12)


def test_a_floor_is_what_exact_draws_score():
    """Energies of N(0, I_2) are exponential; the floor of n draws falls about as n^(-1/2)."""
    target = tj.targets.gaussian([0.0, 0.0])
    assert target.sample is not None

    def floor(n: int) -> float:
        return metrics.floor(jax.random.key(0), lambda a, b: metrics.energy_w2(target, a, b), target.sample, n, 8)

    assert floor(4000) < 0.5 * floor(250) < 0.2


def test_distances_of_exact_draws_are_near_their_floors_and_of_a_lost_mode_are_not(monkeypatch):
    monkeypatch.setattr(metrics.table, "NUM_DRAWS", 300)
    target = tj.targets.gmm()
    assert target.sample is not None
    x = target.sample(jax.random.key(1), 1000)

    def distances(x: jax.Array) -> dict:
        return metrics.distances(target, tj.Samples(x, jnp.zeros(len(x))), x, jax.random.key(2), 6)

    fine, lost = distances(x), distances(jnp.abs(x))
    assert tuple(fine) == metrics.DISTANCES
    for name in ("mode_total_variation", "energy_w2"):
        assert fine[name] < 5 * fine[f"{name}_floor"]
    assert lost["mode_total_variation"] == pytest.approx(0.5, abs=0.01)
    assert lost["mode_entropy"] < 0.01 < 0.99 < fine["mode_entropy"]


def test_distances_without_reference_draws_are_none():
    target = tj.Target(lambda x: -jnp.sum(x**2), (2,))
    x = jnp.zeros((10, 2))
    values = metrics.distances(target, tj.Samples(x, jnp.zeros(10)), x, jax.random.key(0), 2)
    assert set(values.values()) == {None}


# ------------------------------------------------------------------------------------- the exact control's ceiling


@pytest.mark.parametrize("scale", [jnp.asarray([3.0, 5.0]), jnp.asarray([[3.0, 0.0], [2.0, 4.0]])], ids=["diagonal", "matrix"])
def test_the_ceiling_is_that_of_the_whitened_problem(scale):
    """The exact control's problem has the reward of the sampler's own, in the sampler's coordinates."""
    components = cases.Components(jnp.asarray([[-4.0, 1.0], [2.0, 3.0], [0.0, -2.0]]), 0.25)
    target = tj.targets.gmm(components.means, math.sqrt(components.variance))
    affine = tj.coordinates.Coordinates(jnp.asarray([1.0, -1.0]), scale)
    process = tj.processes.gaussian(tj.paths.linear(), (2,), 1.3)
    problem = tj.problems.sampling(target, process, resolution=0.01, coordinates=affine)

    def grid(n: int) -> jax.Array:
        return tj.paths.log_snr(process.frame, n, 0.01)

    sampler = tj.sampling.sampler(problem, tj.networks.zero(problem), (), grid, num_steps=100)
    perfect = runner.exact_sampler(sampler, components)
    assert runner.exact_sampler(sampler, components._replace(variance=400.0)) is None  # wider than the base: no closed form
    draws = perfect.sample(jax.random.key(0), 2000)
    assert tj.diagnostics.ess(draws.log_weight) > 0.7
    estimate = tj.diagnostics.log_z(draws.log_weight)
    assert abs(estimate.value) < 5 * estimate.stderr
    inverse = jnp.linalg.inv(scale if scale.ndim == 2 else jnp.diag(scale))
    exact = tj.exact.mixture_target(
        process, jax.vmap(affine.inverse)(components.means), 0.25 * inverse @ inverse.T, jnp.full(3, 1 / 3)
    )
    for x in jax.random.normal(jax.random.key(1), (5, 2)):
        assert exact.problem.reward(x) == pytest.approx(float(problem.reward(x)), abs=1e-9)


def test_a_full_covariance_is_the_gradient_of_the_marginal():
    """u* = gain grad_m log h, h_t(m) = E[exp r(m + sqrt(R) xi)] by Gauss-Hermite quadrature."""
    process = tj.processes.gaussian(tj.paths.geometric(2.0, 0.3), (2,))
    covariance = jnp.asarray([[0.3, 0.15], [0.15, 0.2]])
    means, weights = jnp.asarray([[0.8, -0.2], [-0.5, 0.4]]), jnp.asarray([0.3, 0.7])
    exact = tj.exact.mixture_target(process, means, covariance, weights)
    node, mass = np.polynomial.hermite_e.hermegauss(60)
    nodes = jnp.asarray(np.stack(np.meshgrid(node, node), -1).reshape(-1, 2))
    masses = jnp.asarray(np.outer(mass, mass).reshape(-1))
    t, x = jnp.asarray(0.3), jnp.asarray([0.4, -0.7])

    def log_h(m: jax.Array) -> jax.Array:
        return jnp.log(
            jnp.sum(masses * jnp.exp(jax.vmap(exact.problem.reward)(m[None] + jnp.sqrt(process.frame.residual(t)) * nodes)))
        )

    expected = process.frame.gain(t) * jax.grad(log_h)(process.frame.response(t) * x)
    np.testing.assert_allclose(exact.control(t, x), expected, rtol=1e-6)


@pytest.mark.slow
def test_the_table_of_ceilings_orders_the_grids():
    table = ceiling.ceiling(1500, QUIET, steps=(50,), pilot_paths=50)
    uniform, power, log_snr, dissipation, narrow = (row[50] for row in table.values())
    assert uniform < power < log_snr
    assert dissipation > 0.95 * log_snr
    assert narrow > 0.95 * log_snr  # in the plane there is little to gain


@pytest.mark.slow
def test_steps_of_the_tilts_variance_lift_the_ceiling_where_dimensions_are_many():
    """40 modes in d = 50, 100 steps: the base's own steps leave one draw with all the weight."""
    exact, target = ceiling.mixture("gmm40_be50"), cases.CASES["gmm40_be50"].target()
    ratio = ceiling.ratio(exact, target, jax.random.key(0), num_draws=500)
    network = tj.Network(lambda key: (), lambda params, t, x: exact.control(t, x))
    ess = {}
    for name, problem in {"base": exact.problem, "tilt": tj.problems.narrowed(exact.problem, ratio)}.items():
        sampler = tj.sampling.sampler(
            problem, network, (), lambda n: tj.paths.log_snr(exact.problem.frame, n, exact.problem.resolution)
        )
        ess[name] = float(tj.diagnostics.ess(sampler.sample(jax.random.key(1), 1000, num_steps=100).log_weight))
    assert ess["base"] < 0.02 and ess["tilt"] > 3 * ess["base"]


# -------------------------------------------------------------------------------- runs, reports, the demonstration


def test_every_key_of_a_line_is_there():
    assert set(DESIGN) <= set(runner.KEYS)


@pytest.mark.slow
def test_figures_are_of_the_draws_that_they_name(monkeypatch):
    """Draws of the two modes by halves, weighted to 1/4 and 3/4; backward weights that no sampler has: all of exp(0.3)."""
    n, few, pairs, sizes = 2500, 300, 3, []
    monkeypatch.setattr(metrics.table, "NUM_DRAWS", few)
    target = tj.targets.gmm([[-5.0], [5.0]], 0.5, [0.25, 0.75])
    halves = tj.targets.gmm([[-5.0], [5.0]], 0.5)
    assert target.sample is not None and halves.sample is not None

    def counted(key: jax.Array, n: int) -> jax.Array:
        sizes.append(n)
        return target.sample(key, n)

    def forward(learned: tuple, given: tuple, keys: jax.Array, times: jax.Array, contexts: tuple) -> tj.Samples:
        x = jax.vmap(lambda key: halves.sample(key, 1)[0])(keys)
        return tj.Samples(x, jax.vmap(target.log_density)(x) - jax.vmap(halves.log_density)(x))

    def back(learned: tuple, given: tuple, keys: jax.Array, times: jax.Array, x: jax.Array, contexts: tuple) -> tj.Samples:
        return tj.Samples(x, jnp.full(len(x), 0.3))

    problem = tj.problems.sampling(target, tj.processes.gaussian(tj.paths.linear(), (1,)))
    sampler = tj.sampling.sampler(problem, tj.networks.zero(problem), (), tj.paths.uniform, num_steps=7)
    sampler = sampler._replace(forward=forward, back=back)
    case = cases.Case(lambda: target._replace(sample=counted))
    draws, resampled, figures = runner.judge(methods.of_sampler(sampler), case, jax.random.key(0), n, pairs)

    right, fraction = math.log(1.5), float(jnp.mean(draws.x > 0))
    assert abs(fraction - 0.5) < 5 * 0.5 / math.sqrt(n)
    mean = 0.5 + fraction  # of the weights, 3/2 at the right and 1/2 at the left
    expected = {
        "num_draws": n,
        "num_steps": 7,
        "ess": mean**2 / (0.25 + 2 * fraction),
        "forward_ess": 1.0,
        "log_z": math.log(mean),
        "log_z_error": math.log(mean),
        "elbo": fraction * right + (1 - fraction) * math.log(0.5),
        "eubo": 0.3,
        "mode_entropy": -(fraction * math.log(fraction) + (1 - fraction) * math.log(1 - fraction)) / math.log(2),
        "mode_total_variation": 0.75 - fraction,
        "mode_total_variation_resampled": abs(float(jnp.mean(resampled > 0)) - 0.75),
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert figures["mode_total_variation_resampled"] < 0.05 < figures["mode_total_variation"]
    assert figures["mode_total_variation_floor"] < 0.05
    assert max(figures["energy_w2_resampled"], figures["energy_w2_floor"]) < 0.5 * figures["energy_w2"]
    # floors are of as many exact draws as are judged: all for modes, `few` for the rest; EUBO's reference is n draws
    assert {size: sizes.count(size) for size in (few, n, 2 * n)} == {few: 1, n: 1, 2 * n: pairs}
    assert set(sizes) == {few, n, 2 * few, 2 * n} and sizes.count(2 * few) >= pairs


def test_tables_have_each_figure_in_its_place():
    """Each key has a number of its own."""
    line = _line(**{name: 100.0 + i for i, name in enumerate(runner.KEYS) if _line()[name] == 0.5}, ess=99.0)
    shown: dict[str, list] = {}
    for column in report.COLUMNS:
        shown.setdefault(column.heading, []).append(column.value(line))
    assert shown["ESS"] == [line["ess"]] and shown["ceiling"] == [line["ess_ceiling"]]
    assert shown["forward ESS"] == [line["forward_ess"]]
    headings = {
        "mode TV": "mode_total_variation",
        "energy W2": "energy_w2",
        "pair W2": "pair_distance_w2",
        "geometric W2": "geometric_w2",
        "Sinkhorn": "sinkhorn",
        "W2": "w2",
        "MMD": "mmd",
    }
    distances = tuple(headings.values())
    assert [shown[f"{heading} raw"] for heading in headings] == [[line[name]] for name in distances]
    assert shown["resampled"] == [line[name + "_resampled"] for name in distances]
    assert shown["floor"] == [line[name + "_floor"] for name in distances]

    label, value, other = ([str(cell) for cell in column.cells] for column in demo_table(line).columns[:3])
    rows = {name: (float(v.split()[0].replace(",", "")), o.split()[:1]) for name, v, o in zip(label, value, other, strict=True)}
    exact = f"{line['log_z'] - line['log_z_error']:.4f}"
    floors = {name: [f"{line[name + '_floor']:.4f}"] for name in distances}
    expected = {
        "log Z": (line["log_z"], [exact]),
        "ELBO": (line["elbo"], [exact]),
        "EUBO": (line["eubo"], [exact]),
        "ESS": (line["ess"], [f"{line['ess_ceiling']:.3f}"]),
        "forward ESS": (line["forward_ess"], ["1"]),
        "mode TV, raw": (line["mode_total_variation"], floors["mode_total_variation"]),
        "mode TV, resampled": (line["mode_total_variation_resampled"], floors["mode_total_variation"]),
        "energy W2, raw": (line["energy_w2"], floors["energy_w2"]),
        "energy W2, resampled": (line["energy_w2_resampled"], floors["energy_w2"]),
        "energy calls": (line["energy_evaluations"], []),
        "gradient calls": (line["gradient_evaluations"], []),
    }
    assert {name: rows[name] for name in expected} == expected


@pytest.mark.float32
@pytest.mark.slow
def test_the_demonstration_writes_its_files(tmp_path, capsys):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # as it is run
        line = demo("smoke", tmp_path, Console(width=100), **TINY)
    assert set(line) == set(runner.KEYS)
    assert (tmp_path / "demo.png").stat().st_size > 20_000
    with np.load(tmp_path / "samples.npz") as samples:
        assert samples["x"].shape == samples["resampled"].shape == (200, 2)
        assert samples["log_weight"].shape == (200,)
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result) == set(runner.KEYS)
    of_others = {"revision", "error", "matched", "diagnostics"}  # outside a checkout, of failures, of classical methods
    missing = {name for name, value in result.items() if value is None} - of_others
    missing -= {name for name in metrics.DISTANCES if name.startswith(("pair_distance", "geometric"))}  # of particles
    assert not missing, f"null in the demonstration: {missing}"
    assert 0 < result["ess"] <= 1 and 0 < result["ess_ceiling"] <= 1
    assert result["arguments"]["num_updates"] == 20
    assert result["arguments"]["loss"] == "minimum_variance"
    assert "the grid's ceiling" in capsys.readouterr().out


def test_cases_name_targets_that_agree_with_their_components():
    for name, case in cases.CASES.items():
        target = case.target()
        assert set(case.overrides) <= {"all", *methods.METHODS}, name
        assert {figure.mark for figure in case.published} <= {"p", "n"}, name
        if case.components is None:
            continue
        means, variance = case.components()
        x = means[3] + 0.3
        own = jnp.mean(jnp.exp(-0.5 * jnp.sum((x[None] - means) ** 2, 1) / variance)) / (2 * math.pi * variance) ** (x.size / 2)
        assert float(target.log_density(x)) == pytest.approx(float(jnp.log(own)), abs=1e-9)


def test_suites_are_of_known_cases_and_methods():
    for suite in cases.SUITES.values():
        assert set(suite.cases) <= set(cases.CASES)
        assert {*suite.methods, *suite.at_equal_seconds} <= set(methods.METHODS)
        assert suite.budget in cases.BUDGETS
    assert methods.METHODS["log_variance"].arguments(cases.BUDGETS["small"]) == {"loss": tj.losses.log_variance}


@pytest.mark.parametrize(
    "words",
    [
        "demo --budget smoke",
        "run gmm40 default --seeds 0 1",
        "run gmm40 smc --evaluations 1000",
        "sweep quick --workers 2",
        "tables",
        "report x",
        "speed",
        "ceiling",
        "coverage --cases gmm40",
    ],
)
def test_the_command_line_reads(words):
    assert parser().parse_args(words.split()).command == words.split()[0]


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(word in said for word in ("demo", "run", "sweep", "report", "tables", "speed", "ceiling", "coverage"))


# ------------------------------------------------------------------------------------------------------- speed


@pytest.mark.slow
@pytest.mark.float32
def test_the_bare_scan_is_the_same_arithmetic():
    """Else the ratios compare two different things."""
    problem, network, (params, keys), times = speed._setting(speed.Size(3, 1, 8), 4, 6)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    ours = jax.vmap(speed.diffrax_end(problem, network, times), (None, 0))(params, keys)
    for remat in (False, True):
        bare = jax.vmap(speed.bare_end(problem, network, times, remat), (None, 0))(params, keys)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), ours, bare)


@pytest.mark.float32
@pytest.mark.slow
def test_a_comparison_has_its_figures():
    for measure in (speed.simulation, speed.gradient):
        record = measure(speed.Size(2, 1, 8), 4, 3, 0.0).record()
        assert all(np.isfinite(value) and value >= 0 for value in record.values())
        assert record["memory_ratio"] <= 1.5


def _line(**changes) -> dict:
    line = dict.fromkeys(runner.KEYS, 0.5) | {"case": "gmm40", "method": "default", "seed": 0, "budget": "smoke", "ess": 0.7}
    plain = {"device": "cpu", "revision": "abc", "arguments": {}, "tuned": False, "matched": None, "error": None}
    return line | plain | changes


def test_training_is_paid_back_after_the_answers_that_it_saves():
    """Errors of 0.1 at 1,000 evaluations are 0.01 at 100,000: training of 199,800 is even after two answers of 100 draws."""
    rows = [{"num_steps": 5, "moves": 1, "error": sign * 0.1, "evaluations": 1000} for sign in (1, -1)]
    lines = [
        {
            "case": "gmm40",
            "seed": seed,
            "learned_error": 0.01 * (-1) ** seed,
            "learned_sampling_evaluations": 100,
            "learned_training_evaluations": 199_800,
            "classical": [row],
        }
        for seed, row in enumerate(rows)
    ]
    columns = {str(column.header): list(column.cells) for column in classical.table(lines).columns}
    assert columns["paid back after"] == ["", "2 answers"]
    assert columns["|log Z error|: median (range)"] == ["0.0100 (0.0100 to 0.0100)", "0.1000 (0.1000 to 0.1000)"]
    worse = [{**line, "learned_error": 5.0} for line in lines]
    assert list(classical.table(worse).columns[-1].cells) == ["", "never"]


def test_tempered_smc_counts_its_evaluations():
    """Counted in the running program: one callback a particle and call of the density's gradient."""
    calls = []

    @jax.custom_jvp
    def log_density(x):
        return -0.5 * jnp.sum(jnp.square(x))

    @log_density.defjvp
    def rule(primals, tangents):
        jax.debug.callback(lambda x: calls.append(1), primals[0][0], ordered=False)  # for each particle, as it depends on it
        return log_density(primals[0]), -jnp.sum(primals[0] * tangents[0])

    setting = classical.Tempered(10, 4, smc.Moves(2, 5))
    problem = tj.problems.tilt(tj.processes.gaussian(tj.paths.trigonometric(), (2,), 1.0), log_density)
    annealed = tj.problems.annealed(problem, noise=0.1)
    before = len(calls)
    drift = lambda t, x: jnp.zeros_like(x)  # noqa: E731
    out = jax.jit(lambda key: smc.run(annealed, drift, tj.paths.uniform(4), key, 10, moves=setting.moves))(jax.random.key(0))
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert len(calls) - before == setting.evaluations


def test_lines_of_earlier_versions_are_known_by_the_arguments_of_today():
    """Every kept line of a learned method is that of a job of today, and a line that is moved keeps its figures."""
    texts = [text for name in ("quick", "beyond", "variance") for text in (RESULTS / f"{name}.jsonl").read_text().splitlines()]
    learned = [line for line in map(json.loads, texts) if "loss" in line["arguments"]]
    for line in learned:
        job = runner.Job(*(line[name] for name in ("case", "method", "seed", "budget", "tuned")))
        assert runner.identity(runner.finite(runner.begun(job))) == runner.identity(line)
    now = learned[0]
    flat = {name: value for name, value in now["arguments"]["training"].items() if name in migrate.IN_TRAINING}
    old = {name: value for name, value in now["arguments"].items() if name != "training"}
    for optimizer in ("adam", None):  # None was Adam once
        assert migrate.migrated({**now, "arguments": {**old, **flat, "optimizer": optimizer}}) == now
    assert migrate.migrated(now) is now


@pytest.mark.slow
def test_families_beside_single_fits_and_nuts(tmp_path, monkeypatch):
    """A line a context with all that the table shows; what has lines is not run again; the truth of log Z is that of b = 1."""
    tiny = functools.partial(tj.fit, **{name: value for name, value in TINY.items() if name != "num_updates"})
    monkeypatch.setattr(tj, "fit", tiny)
    monkeypatch.setattr(families, "DATA_SETS", 2)
    monkeypatch.setattr(families, "by_nuts", functools.partial(posteriors.by_nuts, warm_up=50, kept=100))
    families.families(("tempered", "schools"), (0,), 20, 200, tmp_path, QUIET)
    lines = [json.loads(text) for text in (tmp_path / families.LINES).read_text().splitlines()]
    assert [line["study"] for line in lines] == ["tempered"] * 5 + ["schools"] * 2
    truth = lines[4]["log_z_truth"]  # b = 1: five Gaussians
    assert abs(truth - np.log(5 * (2 * np.pi * families.VARIANCE) ** 4)) < 1e-3
    monkeypatch.setattr(tj, "fit", None)
    families.families(("tempered", "schools"), (0,), 20, 200, tmp_path, QUIET)


@pytest.mark.slow
def test_nuts_in_the_unconstrained_space_has_the_moments_of_a_conjugate_model():
    def model(y=None):
        x = numpyro.sample("x", numpyro.distributions.Normal(0.0, 1.0))
        numpyro.sample("y", numpyro.distributions.Normal(x, 1.0), obs=y)

    found = posteriors.by_nuts(model, (), jnp.asarray(1.0))  # N(1/2, 1/2)
    assert abs(found.mean[0] - 0.5) < 5 * np.sqrt(0.5 / found.ess) and abs(found.sd[0] - np.sqrt(0.5)) < 0.03
    assert found.r_hat < 1.01 and found.ess > 2000
