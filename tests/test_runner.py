"""The runner: budgets, jobs that are there already, failures that become lines, processes; the report and the tables."""

import base64
import contextlib
import functools
import inspect
import json
import math
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

import tiltjax as tj
from benchmarks import __main__, accelerator, cases, methods, plots, report, runner, sweep, tables, workers
from benchmarks.outcome import Outcome, kept
from benchmarks.runner import Job

QUIET = Console(quiet=True)


def figures(job: Job, cores=None, **changes) -> dict:
    """A line as a trial would give it, all numbers 0.5."""
    line = runner.begun(job)
    missing = set(runner.NAMES.split()) - {"error", "matched", "diagnostics", "revision"}
    return line | {name: 0.5 for name in missing if line[name] is None} | changes


def lines_of(folder) -> list[dict]:
    return list(runner.read(folder))


def write(folder, lines) -> None:
    (folder / runner.RESULTS).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def overridden(monkeypatch):
    """GMM-40 with another learning rate for the default."""
    case = cases.CASES["gmm40"]._replace(overrides={"default": {"training": tj.Training(learning_rate=1e-3)}})
    monkeypatch.setitem(cases.CASES, "gmm40", case)


# ----------------------------------------------------------------------------------------------- budgets


@pytest.mark.parametrize("budget", cases.BUDGETS)
def test_a_classical_budget_is_what_the_default_spends_after_the_pilot(budget):
    size = cases.BUDGETS[budget]
    problem = tj.problems.sampling(tj.targets.gaussian([0.0]), tj.processes.gaussian(tj.paths.linear(), (1,)))
    objective = methods.METHODS["default"].defaults["loss"](problem, tj.networks.mlp(problem), tj.paths.uniform(4))
    updates = size.fit.get("num_updates", methods.METHODS["default"].defaults["num_updates"])
    particles = -(-updates // objective.replay.gradient_steps) * objective.replay.num_particles + objective.replay.capacity
    calls = particles * (objective.energy_evaluations + objective.gradient_evaluations)
    assert size.evaluations == calls + size.num_draws


@pytest.mark.parametrize(
    ("took", "expected"),
    [
        (lambda n: n / 100, [1000, 7000]),
        (lambda n: 1 + n / 1000, [1000, 35000, 68055]),  # overhead: the first run tells too little
        (lambda n: (n / 1000) ** 3, [1000, 70_000, 4121]),  # out of the cache: between a shorter and a longer run
        (lambda n: 1.0 if n < 5000 else 4900.0, [1000, 70_000, 8366, 2892, 4918]),  # no fit: it ends all the same
    ],
    ids=["proportional", "overhead", "power law", "jump"],
)
def test_equal_seconds_are_as_many_evaluations_as_take_them(took, expected):
    asked = []

    def baseline(key, target, *, evaluations, num_draws, begun=None):
        assert begun == ("where the first run began" if asked else None)
        asked.append(evaluations)
        samples = tj.Samples(jnp.zeros((2, 1)), jnp.zeros(2))
        return Outcome(kept(samples), {"sample_seconds": took(evaluations)}, begun="where the first run began")

    run = methods.classical(baseline).run
    run(jax.random.key(0), None, num_draws=2, progress=False, evaluations=1000)
    assert asked == [1000]
    asked.clear()
    out = run(jax.random.key(0), None, num_draws=2, progress=False, evaluations=1000, seconds=70.0)
    assert asked == expected and out.costs["sample_seconds"] == took(expected[-1])


def test_draws_that_are_there_are_thinned_evenly():
    samples = tj.Samples(jnp.arange(10.0)[:, None], jnp.arange(10.0))
    assert kept(samples)(None, 4).log_weight.tolist() == [0.0, 3.0, 6.0, 9.0]
    assert kept(samples)(None, 99).log_weight.tolist() == samples.log_weight.tolist()


@pytest.mark.slow
def test_a_line_of_a_classical_method_has_every_key_and_no_weights_of_paths(monkeypatch):
    monkeypatch.setitem(cases.BUDGETS, "smoke", cases.Budget({}, num_draws=50, floor_pairs=2))
    target = cases.CASES["gmm40"].target()

    def run(key, target, *, num_draws, progress, checkpoint, evaluations):
        x = target.sample(key, num_draws)
        costs = {"compile_seconds": 2.0, "sample_seconds": 3.0, "energy_evaluations": evaluations}
        log_z = tj.diagnostics.log_z(jnp.full(4, 0.25))
        return Outcome(kept(tj.Samples(x, jnp.zeros(num_draws))), costs, log_z, diagnostics={"acceptance": 0.7})

    monkeypatch.setitem(methods.METHODS, "smc", methods.METHODS["smc"]._replace(run=run))
    trial = runner.trial(Job("gmm40", "smc", 0, "smoke", extra={"evaluations": 123}))
    line = trial.line
    assert set(line) == set(runner.KEYS) and trial.sampler is None and target.log_z == 0
    assert (line["matched"], line["energy_evaluations"], line["sample_seconds"]) == ("evaluations", 123, 3.0)
    assert line["log_z_error"] == pytest.approx(0.25, abs=1e-6) and line["compile_seconds"] > 2.0
    assert {name for name in ("ess", "elbo", "eubo", "ess_ceiling", "train_seconds") if line[name] is not None} == set()
    assert line["mode_total_variation"] == line["mode_total_variation_resampled"] is not None
    assert line["arguments"] == {**methods.METHODS["smc"].defaults, "evaluations": 123}


# ------------------------------------------------------------------------------------------------- jobs


def test_a_run_goes_on_where_it_stopped(tmp_path):
    calls = []

    def perform(jobs, cores, out):
        (job,) = jobs
        calls.append((job.method, job.seed))
        return [figures(job, ess=float("nan"))]

    def run(method, seeds, extra=None):
        calls.clear()
        sweep.run(sweep.jobs("gmm40", method, "smoke", seeds, extra), tmp_path, QUIET, perform=perform)
        return list(calls)

    assert run("default", [0, 1]) == [("default", 0), ("default", 1)]
    write(tmp_path, [line | {"revision": "another"} for line in lines_of(tmp_path)])
    assert run("default", [0, 1, 2]) == [("default", 2)]
    assert [line["seed"] for line in lines_of(tmp_path)] == [0, 1, 2]
    assert [line["ess"] for line in lines_of(tmp_path)] == [None] * 3  # NaN is not JSON
    # other evaluations are another row; seconds are measured, so what they came to does not matter
    assert run("smc", [0]) == run("smc", [0], {"evaluations": 5}) == [("smc", 0)]
    assert run("smc", [0]) == run("smc", [0], {"evaluations": 5}) == []
    assert run("smc", [0], {"seconds": 4.0}) == [("smc", 0)]
    assert run("smc", [0], {"seconds": 5.0}) == []


def test_what_a_case_overrides_is_run_both_ways(overridden):
    both = sweep.jobs("gmm40", "default", "smoke", [0])
    assert [job.tuned for job in both] == [False, True]
    rates = [runner.begun(job)["arguments"]["training"]["learning_rate"] for job in both]
    assert rates == [methods.METHODS["default"].defaults["training"].learning_rate, 1e-3]
    assert [job.tuned for job in sweep.jobs("gmm40", "log_variance", "smoke", [0])] == [False]


def test_a_replay_in_a_line_tells_its_weights():
    def line(share):
        weighting = tj.weights.defensive(tj.weights.tempered(0.2), share)
        training = tj.Training(replay=tj.Replay(64, weighting=weighting))
        return runner.begun(runner.Job("dw4", "default", 0, "smoke", extra={"training": training}))

    assert line(0.1)["arguments"]["training"]["replay"]["weighting"] == "defensive(tempered(0.2), 0.1)"
    assert line(0.1)["arguments"]["training"]["replay"]["num_particles"] == 64
    assert runner.identity(line(0.1)) == runner.identity(line(0.1)) != runner.identity(line(0.3))


def test_a_loss_in_a_line_tells_its_options():
    loss = functools.partial(tj.losses.minimum_variance, rejuvenation=tj.losses.Rejuvenation(num_moves=3))
    said = runner.begun(runner.Job("dw4", "default", 0, "smoke", extra={"loss": loss}))["arguments"]["loss"]
    assert said["function"] == "minimum_variance" and said["rejuvenation"]["num_moves"] == 3


@pytest.mark.parametrize("names", [("nothing", "default", "smoke"), ("gmm40", "nothing", "smoke"), ("gmm40", "smc", "nothing")])
def test_unknown_names_are_refused_with_those_known(names):
    with pytest.raises(SystemExit, match=r"there is no \w+ 'nothing'; there are: "):
        sweep.jobs(*names, [0])


def test_evaluations_of_a_learned_method_are_refused():
    with pytest.raises(SystemExit, match="classical methods, nuts, parallel_tempering, smc; default takes --budget"):
        sweep.jobs("gmm40", "default", "smoke", [0], {"evaluations": 10})


def test_what_fills_a_chip_is_for_learned_methods_and_a_row_of_its_own(tmp_path):
    chip = {"precision": "bf16", "batch": 4}
    (job,) = sweep.jobs("gmm40", "default", "smoke", [0], chip)
    line, plain = runner.begun(job), runner.begun(Job("gmm40", "default", 0, "smoke"))
    assert (report.label(line), report.label(plain)) == ("default, bf16, batch x4", "default")
    assert runner.identity(line) != runner.identity(plain)
    with pytest.raises(SystemExit, match="precision and batch can be set for the learned methods; smc trains no network"):
        sweep.jobs("gmm40", "smc", "smoke", [0], chip)
    asked = []

    def perform(jobs, cores, out):
        asked.extend((job.method, job.extra) for job in jobs)
        return [figures(job, train_seconds=20.0, sample_seconds=1.0) for job in jobs]

    of = cases.Suite(("gmm40",), ("default", "smc"), (0,), "smoke", ("smc",))
    sweep.suite(of, tmp_path, QUIET, chip=chip, perform=perform)
    assert asked == [("default", chip), ("smc", {}), ("smc", {"seconds": 21.0})]
    assert sweep.default_seconds("gmm40", "smoke", tmp_path) is None  # another row's
    assert (_chip(["--batch", "4", "--precision", "bf16"]), _chip([])) == (chip, {})
    with pytest.raises(SystemExit, match="1 or more; got 0"):
        _chip(["--batch", "0"])


def _chip(words):
    return __main__._chip(__main__.parser().parse_args(["run", "gmm40", "default", *words]))


def test_the_arguments_that_fill_a_chip():
    """A replay of the case's own and that of the loss alike; f32 and 1 change nothing."""
    target, loss = tj.targets.double_well(), tj.losses.minimum_variance
    replay = tj.Replay(10, 100, 5, 20, tj.weights.unweighted)
    assert accelerator.arguments(target, loss=loss, num_updates=3) == {"loss": loss, "num_updates": 3}
    given = accelerator.arguments(target, loss=loss, training=tj.Training(replay=replay), precision="bf16", batch=4)
    assert given["training"].replay == tj.Replay(40, 400, 5, 80, tj.weights.unweighted)
    problem = tj.problems.sampling(target, tj.processes.gaussian(tj.paths.linear(), (3, 2), 1.3))
    network = given["network"](problem)
    objective = given["loss"](problem, network, tj.paths.uniform(4))
    assert objective.replay == accelerator.larger(loss(problem, network, tj.paths.uniform(4)).replay, 4)
    assert "bf16" in str(jax.make_jaxpr(network.apply)(network.init(jax.random.key(0)), jnp.zeros(()), jnp.ones((3, 2))))


LEARNED = [name for name, method in methods.METHODS.items() if not method.timed]


@pytest.mark.parametrize("chip", [{}, {"batch": 2, "precision": "bf16"}], ids=["as it stands", "chip"])
@pytest.mark.parametrize("case, method", [("mw5", name) for name in LEARNED] + [("dw4", "default"), ("lj13", "default")])
def test_fit_gets_the_loss_of_the_method_with_what_the_case_and_the_chip_change(case, method, chip, monkeypatch):
    """By the command's own way: jobs, the runner, the method. `fit` says what it got and goes no further."""
    got = {}

    def fit(*keys_and_target, **arguments):
        got.update(inspect.signature(real).bind(*keys_and_target, **arguments).arguments)
        raise FloatingPointError("far enough")

    def piloted(key, target):
        flat = jnp.zeros(math.prod(target.shape))
        return target, tj.pilot.Pilot(tj.coordinates.Coordinates(flat, flat + 1), 1e-3, flat[None], 0)

    real = tj.fit
    monkeypatch.setattr(tj, "fit", fit)
    monkeypatch.setattr(tj.preparing, "piloted", piloted)  # the pilot has tests of its own
    job = sweep.jobs(case, method, "quick", [0], chip)[-1]
    assert runner.attempt(job)["error"] == "FloatingPointError: far enough"
    changed = cases.overrides(case, method) if job.tuned else {}
    loss = changed.get("loss", getattr(tj.losses, method, tj.losses.minimum_variance))
    assert (got["loss"].args[0] if chip else got["loss"]) is loss
    assert got["num_updates"] == 2000 and (not chip or got["network"].keywords == {"dtype": jnp.bfloat16})
    assert {name for name in changed if name not in got} == set()


@pytest.mark.slow
def test_a_loss_of_annealed_problems_runs_as_a_row(monkeypatch):
    """NETS on a Gaussian: every figure of a learned line is there, and the pilot's gradients are counted."""
    monkeypatch.setitem(cases.BUDGETS, "smoke", cases.Budget({"num_updates": 10}, num_draws=200, floor_pairs=2))
    target = tj.targets.gaussian(jnp.ones(2), covariance=jnp.asarray([[1.0, 0.3], [0.3, 0.5]]))
    monkeypatch.setitem(cases.CASES, "mw5", cases.Case(lambda: target))
    small = {"network": functools.partial(tj.networks.drift, width=8, depth=1), "num_steps": 10}
    small["training"] = tj.Training(sampling_steps=40)
    line = runner.trial(Job("mw5", "nets", 0, "smoke", False, small)).line
    assert line["error"] is None and abs(line["log_z_error"]) < 5 * line["log_z_stderr"]
    assert line["elbo"] < line["log_z"] < line["eubo"] and 0 < line["ess"] <= 1
    key_pilot = jax.random.split(jax.random.split(jax.random.key(0))[0])[0]
    _, found = tj.preparing.piloted(key_pilot, target)
    walkers, steps = 512 + 2048, 10  # a round's, and those that fill the buffer
    assert line["gradient_evaluations"] == found.gradient_evaluations + walkers * (3 * steps + 2) and line["pilot_seconds"] > 0


def test_programs_of_judging_are_kept_and_no_others(tmp_path, request):
    """Written the first time, read the second, also where judging failed; training compiles as a user's would."""
    threshold = "jax_persistent_cache_min_compile_time_secs"
    request.addfinalizer(functools.partial(jax.config.update, threshold, getattr(jax.config, threshold)))
    jax.config.update(threshold, 0.0)  # whatever is compiled with a folder open is written to it

    def programs(add):
        jax.jit(lambda x: jnp.sin(x) + add)(jnp.ones(3)).block_until_ready()
        return {file.name for file in tmp_path.rglob("*cache")}

    assert not programs(0.321)
    with contextlib.suppress(FloatingPointError), runner.programs_kept(tmp_path):
        first = programs(0.123)
        raise FloatingPointError
    assert first and programs(0.456) == first and jax.config.jax_compilation_cache_dir is None
    with runner.programs_kept(tmp_path):
        assert programs(0.123) == first and programs(0.789) > first
    with runner.programs_kept(None):
        assert programs(0.987) == programs(0.654)


def test_the_share_of_a_chips_peak():
    """Products of an mlp by hand, 2 inputs x outputs each; XLA counts the rest on top."""
    problem = tj.problems.sampling(tj.targets.gaussian(jnp.zeros(4)), tj.processes.gaussian(tj.paths.linear(), (4,)))
    network = tj.networks.mlp(problem, width=128, depth=2)
    sampler = tj.sampling.sampler(problem, network, network.init(jax.random.key(0)), tj.paths.uniform, num_steps=10)
    products = 2 * (4 * 128 + 33 * 128 + 2 * 128 * 128 + 128 * 8)
    assert 1.0 < accelerator.flops_of_a_draw(sampler) / (10 * products) < 1.2
    line = {"device": "NVIDIA H100 80GB HBM3 (x86_64)", "arguments": {"precision": "bf16"}, "num_draws": 1000}
    line |= {"flops_of_a_draw": 989e9, "sample_seconds": 4.0}
    assert accelerator.fraction_of_peak(line) == pytest.approx(0.25)
    assert accelerator.fraction_of_peak(line | {"device": "cpu (x86_64)"}) is None


def test_a_failure_is_a_line_and_the_sweep_goes_on(tmp_path, monkeypatch):
    def run(key, target, **arguments):
        raise FloatingPointError("nothing finite")

    monkeypatch.setitem(methods.METHODS, "log_variance", methods.METHODS["log_variance"]._replace(run=run))
    monkeypatch.setattr(runner, "revision", lambda: "0123456789ab")
    todo = sweep.jobs("gmm40", "log_variance", "smoke", [0, 1])
    trained = runner.checkpoint_of(todo[:1], runner.cache_of(tmp_path))
    trained.mkdir(parents=True)
    sweep.run(todo, tmp_path, QUIET, perform=lambda jobs, cores, out: [runner.attempt(job) for job in jobs])
    sweep.run(todo, tmp_path, QUIET, perform=lambda jobs, cores, out: pytest.fail("it is there already"))
    lines = lines_of(tmp_path)
    assert [line["error"] for line in lines] == ["FloatingPointError: nothing finite"] * 2
    assert trained.is_dir()  # judging may have failed, not training
    assert all(set(line) == set(runner.KEYS) and line["ess"] is None for line in lines)
    report.write(tmp_path, QUIET)
    for file in ("report.md", "report.html"):
        text = (tmp_path / file).read_text()
        assert "2 of 2 failed" in text and "log_variance, smoke, seed 1: FloatingPointError: nothing finite" in text


@pytest.mark.slow
def test_training_that_was_killed_goes_on_to_the_same_line(tmp_path, monkeypatch):
    """Cut off in its third chunk, it trains the rest alone; once the line is there the checkpoint goes, and not before."""

    def judge(outcome, *_):
        weights = jax.tree.leaves(outcome.sampler.params)
        return None, None, {"ess": float(sum(jnp.sum(jnp.square(leaf)) for leaf in weights)), "compile_seconds": 0.0}

    monkeypatch.setitem(cases.BUDGETS, "smoke", cases.Budget({"num_updates": 400}, num_draws=200))
    monkeypatch.setitem(cases.CASES, "mw5", cases.Case(lambda: tj.targets.gaussian(jnp.ones(2))))
    monkeypatch.setattr(runner, "revision", lambda: "0123456789ab")
    monkeypatch.setattr(runner, "judge", judge)
    small = {"network": functools.partial(tj.networks.mlp, width=8, depth=1), "num_steps": 10}
    job = Job("mw5", "default", 0, "smoke", False, {**small, "training": tj.Training(checkpoint_seconds=0.0)})
    whole, watch, chunks = runner.trial(job).line, tj.run._watch, []

    def watched(metrics, trainer, bar, done, chunk):
        watch(metrics, trainer, bar, done, chunk)
        chunks.append(done)
        if broken and done == 3:
            raise KeyboardInterrupt

    def sweep_one():
        sweep.run([job], tmp_path, QUIET, perform=lambda jobs, cores, out: [runner.attempt(jobs[0], out)])

    monkeypatch.setattr(tj.run, "_watch", watched)
    broken = True
    with pytest.raises(KeyboardInterrupt):
        sweep_one()
    checkpoint = runner.checkpoint_of([job], runner.cache_of(tmp_path))
    assert min(chunks) == 1 and checkpoint.is_dir() and not lines_of(tmp_path)
    broken = False
    chunks.clear()
    sweep_one()
    (line,) = lines_of(tmp_path)
    assert set(chunks) == {3, 4} and not checkpoint.exists()
    same = [name for name in whole if not name.endswith(("_seconds", "_mb"))]
    assert whole["ess"] > 0 and {name: line[name] for name in same} == {name: whole[name] for name in same}


def test_a_checkpoint_is_of_one_job_of_one_revision(tmp_path, monkeypatch):
    jobs, found = [Job("gmm40", "default", seed, "smoke") for seed in (0, 1)], []
    for here in ("0123456789ab", "ba9876543210"):
        monkeypatch.setattr(runner, "revision", lambda here=here: here)
        found += [runner.checkpoint_of(some, runner.cache_of(tmp_path)) for some in (jobs, jobs[:1], jobs[1:])]
    assert len(set(found)) == 6 and all(path.is_relative_to(tmp_path) for path in found)
    for here in (None, "0123456789ab+"):
        monkeypatch.setattr(runner, "revision", lambda here=here: here)
        assert runner.cache_of(tmp_path) is None


def test_a_suite_runs_its_classical_methods_again_with_the_defaults_seconds(tmp_path):
    asked = []

    def perform(jobs, cores, out):
        (job,) = jobs
        asked.append((job.method, job.extra))
        return [figures(job, train_seconds=20.0 + job.seed, sample_seconds=1.0)]

    of = cases.Suite(("gmm40", "mw5"), ("default", "smc"), (0, 2), "smoke", ("smc",))
    sweep.suite(of, tmp_path, QUIET, perform=perform)
    assert asked[-4:] == [("smc", {"seconds": 22.0})] * 4 and len(asked) == 12
    text = report.write(tmp_path, QUIET)
    assert text.count("| smc, equal seconds | smoke | 2 |") == 2


@pytest.mark.slow
def test_a_job_runs_in_a_process_of_its_own(tmp_path, monkeypatch):
    """An unknown case is the quickest failure that a child can report; a killed one reports for itself."""
    (line,) = workers.in_child([Job("nothing", "default", 3, "smoke")], [sorted(os.sched_getaffinity(0))[0]], tmp_path)
    assert line["error"] == "KeyError: 'nothing'" and line["seed"] == 3
    assert line["peak_memory_mb"] > 10
    monkeypatch.setattr(workers.sys, "executable", "false")
    (line,) = workers.in_child([Job("gmm40", "default", 3, "smoke")], None, tmp_path)
    assert line["error"].startswith("the process ended with 1")


def test_seeds_whose_program_dies_are_run_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(workers.sys, "executable", "false")
    lines = workers.in_child([Job("gmm40", "default", seed, "smoke") for seed in (0, 1)], None, tmp_path)
    assert [line["seed"] for line in lines] == [0, 1]
    assert all(line["error"].startswith("the process ended with 1") for line in lines)


def test_a_program_takes_the_seeds_of_one_row_of_a_learned_method(overridden):
    """Tuned and untuned rows, and methods without such a program, apart."""
    todo = [*sweep.jobs("gmm40", "default", "smoke", range(5)), *sweep.jobs("gmm40", "smc", "smoke", [0, 1])]
    found = [[(job.method, job.tuned, job.seed) for job in group] for group in sweep.groups(todo, 3)]
    assert found == [
        *([("default", tuned, seed) for seed in seeds] for tuned in (False, True) for seeds in ((0, 1, 2), (3, 4))),
        [("smc", False, 0)],
        [("smc", False, 1)],
    ]
    assert [len(group) for group in sweep.groups(todo, 1)] == [1] * 12


def test_seeds_in_one_program_give_the_lines_that_they_give_alone(monkeypatch):
    """Each with its own keys. (What `fit` gives for several keys is in `test_seeds`.)"""
    monkeypatch.setitem(cases.BUDGETS, "smoke", cases.Budget({}, num_draws=200, floor_pairs=2))

    def run(key, target, *, num_draws, progress, checkpoint, loss):
        x = target.sample(key, num_draws)
        return Outcome(kept(tj.Samples(x, jnp.zeros(num_draws))), {"train_seconds": 1.0})

    def together(keys, target, **arguments):
        return [run(key, target, **arguments) for key in keys]

    monkeypatch.setitem(methods.METHODS, "default", methods.METHODS["default"]._replace(run=run, together=together))
    jobs = [Job("gmm40", "default", seed, "smoke") for seed in (4, 5)]
    several = [trial.line for trial in runner.trials(jobs)]
    for job, line in zip(jobs, several, strict=True):
        alone = runner.trial(job).line
        assert (line["seed"], line["seeds_together"], alone["seeds_together"]) == (job.seed, 2, 1)
        same = [name for name in alone if not name.endswith(("_seconds", "_together", "_mb"))]
        assert {name: line[name] for name in same} == {name: alone[name] for name in same}
        assert runner.identity(line) == runner.identity(alone)
    assert several[0]["energy_w2"] != several[1]["energy_w2"]


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda pid: {4, 5, 6}, raising=False)
    assert workers.shares(1) == [None]
    assert workers.shares(2) == [[4, 6], [5]]


# ----------------------------------------------------------------------------------------------- reports


def test_the_report_has_medians_over_seeds_and_their_spread(tmp_path, overridden):
    default, other = Job("gmm40", "default", 0, "smoke"), Job("gmm40", "log_variance", 0, "smoke")
    lines = [figures(default._replace(seed=seed), ess=ess) for seed, ess in enumerate((0.5, 0.9, 0.6))]
    lines += [figures(default._replace(tuned=True), ess=0.95), figures(other, ess=0.7, energy_w2=None, log_z_error=-0.25)]
    write(tmp_path, lines)
    text = report.write(tmp_path, QUIET)
    assert (tmp_path / "report.md").read_text() == text
    rows = [row.strip("| ").split(" | ") for row in text.splitlines() if row.startswith("|")]
    head = rows[0]
    table = {row[0]: dict(zip(head, row, strict=True)) for row in rows[2:5]}
    assert table["default"]["ESS"] == "0.600 (0.500 to 0.900)" and table["default"]["seeds"] == "3"
    assert table["default, tuned"]["ESS"] == "0.950"
    assert table["log_variance"]["energy W2 raw"] == "-" and table["log_variance"]["log Z error"] == "-0.2500"
    assert {len(row) for row in rows[:5]} == {len(head)}
    # ours beside published
    beside = [row for row in rows if row[0] == "ESS"]
    assert ["ESS", "default (smoke)", "0.6 (0.5 to 0.9)", "-", "-"] in beside
    assert any(row[1:3] == ["published: iDEM (n)", "0.734"] for row in beside)


def test_the_page_needs_no_other_file(tmp_path):
    write(tmp_path, [figures(Job(case, "smc", seed, "smoke")) for case in ("gmm40", "wells32_d50") for seed in (0, 1)])
    report.write(tmp_path, QUIET)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<section>") == page.count("</section>") == 2
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert pictures == [(tmp_path / name).read_bytes() for name in ("evaluations.png", "seconds.png")]
    assert all(len(picture) > 10_000 for picture in pictures) and "src=" not in re.sub(r'src="data:', "", page)


def test_a_panel_shows_raw_and_resampled_draws_beside_floor_and_best_published():
    job, shown = Job("dw4", "default", 0, "smoke"), {"energy_evaluations": 60, "gradient_evaluations": 40}
    lines = [figures(job, **shown, energy_w2=w2, energy_w2_resampled=0.5, energy_w2_floor=0.125) for w2 in (2.0, 3.0, 7.0)]
    np.testing.assert_array_equal(
        plots.spread(lines, plots.evaluations, lambda line: line["energy_w2"])["default"][:, 0],
        [[100.0, 2.0], [100.0, 3.0], [100.0, 7.0]],
    )
    ax, quality = Figure().subplots(), plots.quality_of(lines)
    plots.panel(ax, "dw4", lines, quality, plots.evaluations, ["default"], {})
    heights = {float(line.get_ydata()[0]) for line in ax.get_lines() if len(line.get_ydata())}
    best = min(figure.value for figure in cases.CASES["dw4"].published if figure.metric == "energy_w2")
    assert {3.0, 0.5, 0.125, best} <= heights


def test_columns_that_apply_to_no_line_are_left_out():
    rows = report.table([figures(Job("gmm40", "smc", 0, "smoke"), ess=None)])
    assert "ESS" not in rows[0] and "log Z error" in rows[0]


def test_figures_that_are_published_are_compared_by_size():
    lines = [figures(Job("wells32_d50", "default", 0, "smoke"), log_z_error=-0.25)]
    rows = report.beside_published("wells32_d50", lines)
    assert rows[1] == ["|log Z error|", "default (smoke)", "0.25", "-", "-"]
    assert report.markdown_table(rows).splitlines()[2] == r"| \|log Z error\| | default (smoke) | 0.25 | - | - |"


def test_a_report_of_nothing_says_what_to_run(tmp_path):
    with pytest.raises(SystemExit, match="python -m benchmarks run CASE METHOD"):
        report.write(tmp_path, QUIET)


# ------------------------------------------------------------------------------------------------ tables


@pytest.mark.float32
def test_the_tables_of_the_page_are_those_of_the_lines():
    text = tables.PAGE.read_text()
    assert tables.filled(text) == text, "run `python -m benchmarks tables`"
    assert len(tables.BLOCK.findall(text)) == text.count("<!-- table:") > 2


def test_no_row_is_kept_tuned_without_its_untuned_one():
    """Same case, method, budget and seeds, in one file; classical.jsonl has other lines, and no overrides."""
    for path in tables.RESULTS.glob("*.jsonl"):
        rows = [line for line in tables.lines(path.stem) if "tuned" in line]
        of = {tuned: {_row(line) for line in rows if line["tuned"] is tuned} for tuned in (False, True)}
        assert of[True] <= of[False], f"{path.name}: {of[True] - of[False]}"


def _row(line):
    return tuple(line[name] for name in ("case", "method", "budget", "seed"))


def test_a_table_that_disagrees_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    (tmp_path / "smoke.jsonl").write_text(json.dumps(figures(Job("mw5", "smc", 0, "smoke"), log_z_error=0.25)) + "\n")
    page = "before\n<!-- table: suite smoke -->\n| old |\n<!-- end -->\nafter\n"
    new = tables.filled(page)
    assert new.startswith("before\n<!-- table: suite smoke -->\n") and new.endswith("<!-- end -->\nafter\n")
    assert "+0.250" in new and "old" not in new and tables.filled(new) == new
