"""The pages run as written, and the reference names what is public."""

import importlib
import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "posterior.md").read_text()


def blocks(language, page=PAGE):
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_python_of_the_page_on_posteriors_says_what_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks("python"):
        exec(compile(code, "docs/posterior.md", "exec"), names)
    printed = capsys.readouterr().out
    hidden, known = map(float, re.search(r"hidden (\S+), else (\S+)", printed).groups())
    assert hidden > 0.1 > known
    # The reward 2 x_1 on eight modes: those on the right carry nearly all the weight.
    assert int(re.search(r"(\d+)% on the right", printed).group(1)) > 90


def test_the_energy_of_the_page_is_one_that_tilt_takes(tmp_path, monkeypatch):
    import torch

    from stmd_training.tilt import import_energy

    (code,) = [block for block in blocks("python") if block.startswith("def near")]
    (tmp_path / "energies.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    importlib.invalidate_caches()
    near = import_energy("energies:near")
    torch.testing.assert_close(near(torch.tensor([[1.0, 0.5], [1.8, 0.5]])), torch.tensor([0.0, 0.5]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "right"),
    [
        ("index", None),
        ("bring-your-own-model", r"(?s)circle 0\.1[45].*x_1 = (0\.9|1\.0).*variance ratio (0\.9[5-9]|1\.0)"),
        ("guides/restore", r"deviation where hidden 0\.[1-9]"),
        ("demo", r"deviation where hidden (0\.9|1\.0)"),
        ("guides/steer", r"(?s)9\d% on the right.*log E\[exp\(reward\)\] = 1\.[3-7]"),  # exact: 1.47
        ("guides/certify", r"(?s)False\n.*variance ratio at t = 0\.5: 0\.01.*t = 0\.3: 0\.[89]"),  # 2 · 0.1² of about 2
    ],
)
def test_the_python_of_a_page_runs(page, right, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks("python", (DOCS / f"{page}.md").read_text()):
        exec(compile(code, page, "exec"), names)
    assert right is None or re.search(right, capsys.readouterr().out)


def test_the_guide_names_every_operator_of_the_commands():
    from stmd_sdk.cli.options import OPERATORS

    page = (DOCS / "guides" / "restore.md").read_text()
    assert [name for name in OPERATORS.split(", ") if f"`{name}`" not in page] == []


def test_the_python_of_the_page_on_the_hub_runs(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks("python", (DOCS / "hub.md").read_text()):
        exec(compile(code, "docs/hub.md", "exec"), names)
    assert names["points"].shape == (16, 2)
    assert names["x"].abs().max() <= 1
    printed = capsys.readouterr().out
    assert f"{hub.url}/you/eight-modes/commit/" in printed
    assert 0 < float(re.search(r"deviation of draws (\S+)", printed).group(1)) < 1


@pytest.mark.parametrize("package", ["", ".operators", ".evaluation", ".data", ".inference"])
def test_the_reference_has_every_public_name(package):
    page = DOCS / "reference" / f"{package.lstrip('.') or 'sdk'}.md"
    shown = re.findall(rf"^::: stmd_sdk{re.escape(package)}\.(\w+)$", page.read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(importlib.import_module(f"stmd_sdk{package}").__all__)


def test_the_pictures_are_there_and_small():
    for page in DOCS.rglob("*.md"):
        for name in re.findall(r"!\[.*?\]\((\S*images/.*?)\)", page.read_text()):
            assert 0 < (page.parent / name).stat().st_size < 200_000
