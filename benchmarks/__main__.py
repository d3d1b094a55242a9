"""`python -m benchmarks demo | run | sweep | report | tables | migrate | speed | bits | ...`, see --help."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.accelerator import PRECISIONS
from benchmarks.cases import BUDGETS, CASES, COVERAGE, SUITES
from benchmarks.methods import METHODS


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks of tiltjax.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="sample GMM-40, compare with exact answers, write a picture")
    demo.add_argument("--budget", choices=BUDGETS, default="small")
    demo.add_argument("--out", type=Path, default=Path("demo"))

    run = commands.add_parser("run", help="one case with one method: a JSON line a seed")
    run.add_argument("case", metavar="CASE", help=", ".join(CASES))
    run.add_argument("method", metavar="METHOD", help=", ".join(METHODS))
    run.add_argument("--budget", choices=BUDGETS, default="small")
    run.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    amount = run.add_mutually_exclusive_group()
    amount.add_argument(
        "--evaluations", type=int, help="of a classical method (default: what the default spends at this budget)"
    )
    amount.add_argument("--seconds", type=float, help="of a classical method, compilation and pilot apart")
    run.add_argument("--out", type=Path, default=Path("results"))
    _at_once(run)

    sweep = commands.add_parser("sweep", help="a suite of cases and methods, then its report")
    sweep.add_argument("suite", choices=SUITES, metavar="SUITE", help=", ".join(SUITES))
    sweep.add_argument("--seeds", type=int, nargs="+", default=None, help="instead of the suite's own")
    sweep.add_argument("--out", type=Path, default=Path("results"))
    _at_once(sweep)

    report = commands.add_parser("report", help="tables and plots of a directory of results: report.md, report.html")
    report.add_argument("directory", type=Path, metavar="DIR")

    commands.add_parser("tables", help="writes the tables of docs/results.md from benchmarks/results")

    migrate = commands.add_parser("migrate", help="result lines of earlier versions, brought to today's names of arguments")
    migrate.add_argument("files", type=Path, nargs="+", metavar="FILE")

    speed = commands.add_parser("speed", help="timings against bare lax.scan, as JSON")
    speed.add_argument("--out", type=Path, default=None)

    bits = commands.add_parser("bits", help="hashes of trained parameters and of one line, to compare two revisions")
    bits.add_argument("--out", type=Path, default=Path("results/bits"))
    bits.add_argument("--against", type=Path, default=None, help="a directory that an earlier run wrote")

    ceiling = commands.add_parser("ceiling", help="the ESS that a time grid allows: exact control of 40 modes")
    ceiling.add_argument(
        "--case", choices=[name for name, case in CASES.items() if case.components is not None], default="gmm40"
    )
    ceiling.add_argument("--draws", type=int, default=20_000)

    coverage = commands.add_parser("coverage", help="modes that are far apart: losses by recipes, a JSON line each")
    coverage.add_argument("--cases", nargs="+", choices=COVERAGE["cases"], default=["wells32_d50"])
    coverage.add_argument("--losses", nargs="+", choices=COVERAGE["losses"], default=["adjoint_sampling", "adjoint_matching"])
    coverage.add_argument("--recipes", nargs="+", choices=COVERAGE["recipes"], default=list(COVERAGE["recipes"]))
    coverage.add_argument("--seeds", type=int, nargs="+", default=[0])
    coverage.add_argument("--updates", type=int, default=4000, help="300 for a look at whether it runs")
    coverage.add_argument("--draws", type=int, default=10_000)
    coverage.add_argument("--out", type=Path, default=Path("results"))

    classical = commands.add_parser("classical", help="log Z: learned samplers against tempered SMC, with what training costs")
    classical.add_argument("--cases", nargs="+", choices=CASES, default=["gmm40", "many_well32", "funnel10"])
    classical.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    classical.add_argument("--updates", type=int, default=6000)
    classical.add_argument("--draws", type=int, default=10_000)
    classical.add_argument("--out", type=Path, default=Path("results"))

    families = commands.add_parser("families", help="one sampler for many problems, beside single fits and NUTS")
    families.add_argument("studies", nargs="*", metavar="STUDY", help="tempered, lattice, schools, logistic (default: all)")
    families.add_argument("--seeds", type=int, nargs="+", default=[0])
    families.add_argument("--updates", type=int, default=20_000)
    families.add_argument("--draws", type=int, default=20_000)
    families.add_argument("--out", type=Path, default=Path("results"))

    reference = commands.add_parser("reference", help="reference draws by long Markov chains, with r-hat and energy statistics")
    reference.add_argument("case", choices=CASES, metavar="CASE", help="a case without exact draws")
    reference.add_argument("--seed", type=int, default=0)
    reference.add_argument("--draws", type=int, default=None)
    reference.add_argument("--out", type=Path, default=Path("references"))
    return top


def _at_once(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workers", type=int, default=1, help="processes at once, which share the cores evenly")
    command.add_argument(
        "--together", type=int, default=1, metavar="S", help="seeds of a learned method in one program, for an accelerator"
    )
    command.add_argument(
        "--precision", choices=PRECISIONS, default="f32", help="of a learned method's hidden layers (sums are f32)"
    )
    command.add_argument(
        "--batch", type=int, default=1, metavar="N", help="rounds, buffer and batches of a learned method N times as large"
    )


def _chip(options: argparse.Namespace) -> dict[str, Any]:
    """What differs from f32 and the recipe's own batches."""
    if options.batch < 1:
        raise SystemExit(f"--batch is how many times as large, 1 or more; got {options.batch}.")
    given = {"precision": options.precision, "batch": options.batch}
    return {name: value for name, value in given.items() if value not in ("f32", 1)}


def main(arguments: list[str] | None = None) -> None:
    options, console = parser().parse_args(arguments), Console()
    # each command imports what it needs: the parser answers --help at once
    if options.command == "demo":
        from benchmarks.demo import demo

        demo(options.budget, options.out, console)
    elif options.command == "classical":
        from benchmarks.classical import classical

        classical(options.cases, options.seeds, options.updates, options.draws, options.out, console)
    elif options.command == "families":
        from benchmarks.families import STUDIES, families

        families(options.studies or STUDIES, options.seeds, options.updates, options.draws, options.out, console)
    elif options.command == "reference":
        from benchmarks import reference

        reference.command(options.case, CASES[options.case].target(), options.seed, options.draws, options.out, console)
    elif options.command == "run":
        from benchmarks import sweep

        asked = {name: getattr(options, name) for name in ("evaluations", "seconds")}
        extra = {name: value for name, value in asked.items() if value is not None} | _chip(options)
        todo = sweep.jobs(options.case, options.method, options.budget, options.seeds, extra)
        sweep.run(todo, options.out, console, options.workers, options.together)
    elif options.command == "sweep":
        from benchmarks import sweep
        from benchmarks.report import write

        of = SUITES[options.suite]
        of = of if options.seeds is None else of._replace(seeds=tuple(options.seeds))
        sweep.suite(of, options.out, console, options.workers, options.together, _chip(options))
        write(options.out, console)
    elif options.command == "migrate":
        from benchmarks.migrate import migrate

        for path in options.files:
            console.print(f"{path}: {migrate(path)} lines changed")
    elif options.command == "report":
        from benchmarks.report import write

        write(options.directory, console)
    elif options.command == "tables":
        from benchmarks.tables import write_page

        write_page(console)
    elif options.command == "speed":
        from benchmarks.speed import speed

        speed(options.out, console)
    elif options.command == "bits":
        from benchmarks.bits import bits

        if not bits(options.out, options.against, console):
            raise SystemExit("the bits differ")
    elif options.command == "ceiling":
        from benchmarks.ceiling import ceiling

        ceiling(options.draws, console, case=options.case)
    else:
        from benchmarks.coverage import coverage

        grid = (options.cases, options.losses, options.recipes, options.seeds)
        coverage(*grid, options.updates, options.draws, options.out, console)


if __name__ == "__main__":
    main()
