"""The pages run as written."""

import importlib
import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "posterior.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


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


def test_the_picture_is_there_and_small():
    for name in re.findall(r"!\[.*?\]\((images/.*?)\)", PAGE):
        assert 0 < (DOCS / name).stat().st_size < 200_000
