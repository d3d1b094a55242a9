"""The project keeps its own rules: one-way imports, a light `import tiltjax`, metadata that agree."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tiltjax"

# A module imports only from the rooms before its own. Modules of one folder may import one another.
ROOMS = [
    "types",
    "families",
    "validate",
    "weights",
    "contexts",
    "calculus",
    "batching",
    "coordinates",
    "particles",
    "paths",
    "targets",
    "networks",
    "frames",
    "processes",
    "sde",
    "memoryless",
    "bridges",
    "annealing",
    "problems",
    "dynamics",
    "hamiltonian",
    "noncentring",
    "pilot",
    "smc",
    "buffers",
    "losses",
    "rounds",
    "train",
    "turns",
    "checkpoints",
    "run",
    "identity",
    "training",
    "sampling",
    "diagnostics",
    "exact",
    "integrations",
    "preparing",
    "fitted",
    "fitting",
    "bridging",
    "loading",
]

APART = {"losses/bridge.py"}  # two objectives that need one another: `losses.bridge`

HEAVY = {"arviz", "arviz_base", "diffusers", "distrax", "numpyro", "orbax", "sklearn", "tensorflow_probability", "torch"}
NEVER = {"matplotlib", "pandas", "scipy"}  # the benchmarks may use them, the library does not

MODULES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_of(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def imports(tree: ast.AST, file: Path, *, inside_functions: bool) -> Iterator[str]:
    """The absolute dotted names that `tree` imports; what only a type checker sees is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ("tiltjax", *file.relative_to(PACKAGE).parts[:-1])
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(node, file, inside_functions=inside_functions)


def all_imports(file: Path, *, inside_functions: bool) -> set[str]:
    return set(imports(ast.parse(file.read_text()), file, inside_functions=inside_functions))


def top(name: str) -> str:
    return name.partition(".")[0]


# ------------------------------------------------------------------------------------------------ imports


def test_every_module_has_a_room():
    rooms = {Path(name_of(file)).parts[0].removesuffix(".py") for file in MODULES} - {"__init__"}
    assert rooms <= set(ROOMS), f"say where in ROOMS these belong: {sorted(rooms - set(ROOMS))}"


@pytest.mark.parametrize("file", [file for file in MODULES if file != PACKAGE / "__init__.py"], ids=name_of)
def test_imports_go_one_way(file):
    own = Path(name_of(file)).parts[0].removesuffix(".py")
    allowed = {*ROOMS[: ROOMS.index(own)], *([own] if (PACKAGE / own).is_dir() else [])}
    within = {name for name in all_imports(file, inside_functions=True) if top(name) == "tiltjax"}
    assert "tiltjax" not in within, "import the rooms, not the package as a whole"
    wrong = sorted(name for name in within if name.split(".")[1] not in allowed)
    assert not wrong, f"{own} comes before what it imports: {wrong}"


def test_only_sde_imports_diffrax():
    users = {name_of(f) for f in MODULES if "diffrax" in map(top, all_imports(f, inside_functions=True))}
    assert users <= {"sde.py"}


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_heavy_libraries_are_imported_only_when_called(file):
    assert not HEAVY & set(map(top, all_imports(file, inside_functions=False)))
    assert not NEVER & set(map(top, all_imports(file, inside_functions=True)))


def test_importing_tiltjax_is_light_and_silent():
    code = "import sys, tiltjax; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not (HEAVY | NEVER) & set(run.stdout.split())


@pytest.mark.parametrize(("room", "recipe"), [("losses", "Objective"), ("targets", "Target")])
def test_every_recipe_file_is_re_exported(room, recipe):
    exported = importlib.import_module(f"tiltjax.{room}").__all__
    assert len(exported) == len(set(exported))
    for file in (PACKAGE / room).glob("[!_]*.py"):
        functions = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
        makers = {node.name for node in functions if node.returns and ast.unparse(node.returns) == recipe}
        assert not makers or makers & set(exported) or name_of(file) in APART, (
            f"{name_of(file)}: nothing of it in {room}.__all__"
        )


# ----------------------------------------------------------------------------------------------- metadata


def pins() -> dict[str, str]:
    """constraints.txt as {name: version}; names and versions only, or this fails."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert not [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.+]+( ; python_version .*)?", line)]
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1].split()[0] for line in lines}


def test_constraints_pin_every_dependency_within_its_range():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    pinned = pins()
    for requirement in (Requirement(line) for group in groups for line in group):
        if requirement.name == "tiltjax":
            continue
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} is pinned to {version}"


def test_citation_agrees_with_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"]
    assert citation["type"] == "software"
    assert citation["authors"]
    assert [citation[key] for key in ("title", "version", "license")] == [
        PROJECT[key] for key in ("name", "version", "license")
    ]
    [paper] = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert all({"family-names", "given-names"} == author.keys() for author in paper["authors"])
    assert paper["identifiers"][0]["value"].removeprefix("arXiv:") in paper["url"]


def test_changelog_has_an_entry_for_what_is_not_released():
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text()


# ---------------------------------------------------------------------------------------------- the files


def project_files() -> list[Path]:
    """What git tracks or would track; outside a checkout (a source archive), everything that is not made."""
    run = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if run.returncode == 0:
        return [ROOT / name for name in run.stdout.split("\0") if name and (ROOT / name).is_file()]
    made = {".git", ".venv", "demo", "results", "build", "dist"}
    return [f for f in ROOT.rglob("*") if f.is_file() and not made & set(f.relative_to(ROOT).parts)]


MACHINE = re.compile(
    rb"(?<![\w.~-])/(?:work|root|home/\w+|Users/\w+)/"  # where somebody's files lay
    rb"|index[-_]url|://(?:files|registry|pypi)\.|/simple[/]"  # where somebody's packages came from
)


def test_no_file_names_a_machine_or_a_package_index():
    found = [f"{f.relative_to(ROOT)}: {m.group()!r}" for f in project_files() for m in MACHINE.finditer(f.read_bytes())]
    assert not found
