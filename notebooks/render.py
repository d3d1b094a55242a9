"""Executes the notebooks beside this file (percent scripts) and writes them, with what they print and plot, to `rendered/`.

`python notebooks/render.py [NAME ...]`: all of them, or those named. A notebook whose assertions fail is not written.
"""

import pathlib
import sys
import time

import jupytext
from nbclient import NotebookClient

HERE = pathlib.Path(__file__).resolve().parent
LARGEST = 400_000  # bytes: these files are kept in git


def render(script: pathlib.Path) -> pathlib.Path:
    notebook = jupytext.read(script, fmt="py:percent")
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    client = NotebookClient(notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": str(HERE)}})
    client.record_timing = False
    client.execute()
    notebook.metadata.pop("language_info", None)
    for k, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{k}"  # the same at every rendering
        if cell.cell_type == "code":  # warnings name files of the machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    out = HERE / "rendered" / f"{script.stem}.ipynb"
    out.parent.mkdir(exist_ok=True)
    jupytext.write(notebook, out)
    if out.stat().st_size > LARGEST:
        raise ValueError(f"{out.name} is of {out.stat().st_size} bytes; at most {LARGEST}. Plot with a lower dpi.")
    return out


def main(names: list[str]) -> None:
    scripts = [HERE / f"{name}.py" for name in names] or [f for f in sorted(HERE.glob("*.py")) if f.name != "render.py"]
    for script in scripts:
        began = time.perf_counter()
        out = render(script)
        print(f"{out.relative_to(HERE)}: {time.perf_counter() - began:.0f} s, {out.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
