"""The notebooks run at small size, with their own assertions; the rendered copies are of the same source."""

import json
import os
import runpy
from pathlib import Path

import jax
import matplotlib
import pytest
from support import slow

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = [file.stem for file in sorted(FOLDER.glob("*.py")) if file.name != "render.py"]
LARGEST = 400_000  # bytes: kept in git

pytestmark = pytest.mark.float32  # as a user runs them


def cells(script):
    """(kind, source) of the cells of a percent script."""
    found = []
    for block in ("\n" + script).split("\n# %%")[1:]:
        head, _, body = block.partition("\n")
        body = body.strip("\n")
        if head.strip() == "[markdown]":
            body = "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.split("\n"))
        found.append(("markdown" if head.strip() else "code", body))
    return found


@pytest.mark.parametrize("name", [slow(name) for name in NOTEBOOKS])  # a dozen programs each
def test_notebook_runs(name, monkeypatch, tmp_path):
    if name == "numpyro_posterior":
        pytest.importorskip("arviz_base", reason="the extra `arviz`")
    monkeypatch.setenv("TILTJAX_NOTEBOOK_SIZE", "small")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    import matplotlib.pyplot as plt

    with matplotlib.rc_context(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        plt.switch_backend("Agg")
        runpy.run_path(str(FOLDER / f"{name}.py"))
        assert plt.get_fignums(), "a notebook without a picture"
        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()  # labels that cannot be set are errors here
        plt.close("all")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_rendered_copy_is_of_this_source(name):
    file = FOLDER / "rendered" / f"{name}.ipynb"
    assert file.stat().st_size <= LARGEST
    rendered = json.loads(file.read_text())["cells"]
    sources = [(cell["cell_type"], "".join(cell["source"])) for cell in rendered]
    assert sources == cells((FOLDER / f"{name}.py").read_text()), "run `make notebooks`"
    outputs = [output for cell in rendered if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]


def test_every_rendered_copy_has_a_script():
    assert sorted(file.stem for file in (FOLDER / "rendered").glob("*")) == sorted(NOTEBOOKS)


def test_notebooks_are_linked():
    page = (FOLDER.parent / "docs" / "index.md").read_text()
    assert not [name for name in NOTEBOOKS if f"notebooks/rendered/{name}.ipynb" not in page]
