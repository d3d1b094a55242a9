"""The Python blocks of the README and of the docs run, page by page, as a user would run them: with small fits."""

import contextlib
import functools
import re
from pathlib import Path

import jax
import pytest
from support import slow

import tiltjax

ROOT = Path(__file__).resolve().parents[1]
README = "README.md"
PAGES = ["docs/guide.md", "docs/losses.md", "docs/targets.md", "docs/families.md"]  # they go on from the names of the README

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)([^)#]*)(?:#([\w-]+))?\)")

pytestmark = pytest.mark.float32

real_fit, real_load, real_sample = tiltjax.fit, tiltjax.load, tiltjax.Sampler.sample
STEPS = 8
SMALL = functools.partial(tiltjax.networks.mlp, width=8, depth=1)
REPLAY = tiltjax.Replay(
    num_particles=64, capacity=128, gradient_steps=10, batch_size=16, weighting=tiltjax.weights.tempered(0.2)
)


def small_fit(*args, **kwargs):
    """`fit` with what a test can afford in the place of its defaults; what the block says stays, but for the length."""
    training = kwargs.pop("training", tiltjax.Training())._replace(sampling_steps=STEPS)
    if "loss" not in kwargs and training.replay is None:
        training = training._replace(replay=REPLAY)
    given = {"network": SMALL, **kwargs, "training": training}
    return real_fit(*args, **{**given, "num_updates": 20, "num_steps": STEPS, "progress": False})


def small_sample(sampler, key, num_particles, *, num_steps=None, **kwargs):
    return real_sample(sampler, key, num_particles, num_steps=None if num_steps is None else STEPS, **kwargs)


def blocks(page):
    """(line, code) of each Python block."""
    text = (ROOT / page).read_text()
    return [(text[: match.start(1)].count("\n"), match[1]) for match in BLOCK.finditer(text)]


def run(page, names):
    for line, code in blocks(page):
        exec(compile("\n" * line + code, page, "exec"), names)  # an error names the page and its line
    return names


@contextlib.contextmanager
def as_a_user(folder):
    """JAX's own promotion, and an empty working folder."""
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        patch.chdir(folder)
        patch.setattr(tiltjax, "fit", small_fit)
        patch.setattr(tiltjax.Sampler, "sample", small_sample)
        patch.setattr(tiltjax.pilot, "pilot", functools.partial(tiltjax.pilot.pilot, num_particles=64, final_moves=2))
        patch.setattr(tiltjax, "load", functools.partial(real_load, network=SMALL))
        yield


@pytest.fixture(scope="module")
def readme(tmp_path_factory):
    with jax.enable_x64(False), as_a_user(tmp_path_factory.mktemp("readme")):
        return run(README, {})


@pytest.mark.slow
def test_readme_runs(readme):
    assert readme["draws"].x.shape == (10_000, 2)
    assert readme["x"].shape == (10_000, 2)
    assert readme["sites"]["theta"].shape == (10_000, 8)


@pytest.mark.parametrize("page", [slow(page) for page in PAGES])
def test_pages_run(page, readme, tmp_path):
    with as_a_user(tmp_path):
        run(page, dict(readme))


def test_every_block_is_on_a_page_that_runs():
    found = {str(file.relative_to(ROOT)) for file in (ROOT / "docs").rglob("*.md") if blocks(file)}
    assert found == set(PAGES)


@pytest.mark.parametrize("page", [README, *sorted(str(f.relative_to(ROOT)) for f in (ROOT / "docs").glob("*.md"))])
def test_links_within_the_project_lead_somewhere(page):
    for name, section in LINK.findall((ROOT / page).read_text()):
        file = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert file.exists(), f"{page}: {name}"
        assert not section or section in sections(file), f"{page}: {name}#{section}"


def sections(file):
    headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_loss_and_target_is_described():
    losses, targets = (ROOT / "docs/losses.md").read_text(), (ROOT / "docs/targets.md").read_text()
    assert not [name for name in tiltjax.losses.__all__ if f"| `{name}`" not in losses]
    assert not [name for name in tiltjax.targets.__all__ if f"| `{name}(" not in targets]
