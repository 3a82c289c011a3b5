"""The terminal gets text as it is: no markup, no emoji by name, no control characters, whatever its encoding."""

import itertools
import os
import subprocess
import sys
from importlib import import_module

import pytest
import typer

from stmd_sdk import CheckpointError
from stmd_sdk.console import exit_on_error, plain, run_command, say, say_error
from stmd_sdk.diffusion import noise

COMMANDS = {
    "stmd": "stmd_sdk.cli.app",
    "stmd-train": "stmd_training.cli",
    "stmd-cache-latents": "stmd_training.caching",
    "stmd-train-classifier": "stmd_training.classify",
    "stmd-export": "stmd_export.cli",
}
HOSTILE = "[/x] [red]a[/red] :smile: \x1b]0;title\x07 \x9b31m \r\b\u202e\u2028\ud800"


def test_text_reaches_the_terminal_as_it_is(capsys):
    for text in ("x[/final]/grid.png", "grid[v2].png", "exp :smile: [v1]", "größe → 1", "a: b", "[bold]"):
        say(text)
        assert capsys.readouterr().out == f"{text}\n"


def test_no_control_character_reaches_the_terminal(capsys):
    say(HOSTILE)
    say_error(HOSTILE + "\nanother line")
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert text.isprintable() or set(text) - {"\n"} <= {c for c in text if c.isprintable()}
        assert "[/x] [red]a[/red] :smile:" in text
        assert "\\x1b]0;title\\x07" in text
        assert "\\ud800" in text
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("error: ")


def test_an_error_is_one_line_of_its_own_text(capsys):
    with pytest.raises(typer.Exit) as stopped, exit_on_error():
        raise CheckpointError("'mask:a:b.png' [/bold]\nsecond line")
    assert stopped.value.exit_code == 2
    assert capsys.readouterr().err == "error: 'mask:a:b.png' [/bold] second line\n"


def test_plain_text_has_no_style():
    assert plain("[red]a[/red]").spans == []


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_shown_on_terminals_of_few_characters(command, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "100"}
    program = f"from {COMMANDS[command]} import main; main()"
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert "\\u" not in done.stdout.decode(encoding)


@pytest.mark.parametrize(
    "arguments",
    [
        ["stmd", "sample"],
        ["stmd", "trajectory"],
        ["stmd", "info", "digits"],
        ["stmd", "certify", "digits"],
        ["stmd", "evaluate", "digits", "--data", "digits"],
        ["stmd", "restore", "x.png", "--operator", "sr2"],
        ["stmd-train", "digits"],
        ["stmd-train", "tilt", "--init", "digits", "--energy", "a:b"],
        ["stmd-cache-latents", "pictures"],
        ["stmd-train-classifier", "--data", "x"],
        ["stmd-export", "--ckpt", "digits", "--onnx"],
    ],
    ids=" ".join,
)
def test_without_pytorch_every_command_says_so_in_one_line(tmp_path, arguments):
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "diffusers", "safetensors"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.split(".")[0])
sys.meta_path.insert(0, Absent())
sys.argv = {arguments!r}
from {COMMANDS[arguments[0]]} import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "is not installed: pip install stmd-sdk" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("stmd", ["certify", "mixture2d"]),
        ("stmd", ["sample", "-m", "mixture2d", "-n", "3", "-o", "x.npz"]),
        ("stmd-train", ["mixture2d", "--out", "run"]),
    ],
    ids=lambda part: part if isinstance(part, str) else part[0],
)
def test_memory_that_runs_out_is_one_line(tmp_path, monkeypatch, capsys, name, arguments):
    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 16000000000 bytes")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(noise, "host_normals", full)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit, match="2"):
        import_module(COMMANDS[name]).main()
    said = capsys.readouterr().err
    assert "memory" in said
    assert said.count("\n") == 1


def test_memory_runs_out_in_three_libraries_and_nothing_else_is_taken_for_it():
    class OutOfMemoryError(RuntimeError):
        """As PyTorch's."""

    class RuntimeException(Exception):
        pass

    for error in (MemoryError(), OutOfMemoryError("CUDA"), RuntimeException("Failed to allocate memory for buffer")):
        with pytest.raises(typer.Exit), exit_on_error():
            raise error
    with pytest.raises(RuntimeError, match="shapes"), exit_on_error():
        raise RuntimeError("shapes do not fit")


def test_every_command_is_here():
    for module in COMMANDS.values():
        assert callable(import_module(module).main)


@pytest.mark.parametrize("columns", [50, 90, 160])
def test_help_is_wrapped_by_the_terminal_alone(columns, monkeypatch, capsys):
    def speak() -> None:
        """Say it.

        One paragraph of many words, broken by its author where an editor of source code breaks lines at a hundred and
        twenty columns, is one line to a terminal.

        \b
        first example
        second example
        """

    app = typer.Typer(add_completion=False)
    app.command()(speak)
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        run_command(app, ["--help"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    start, end = (next(i for i, line in enumerate(lines) if line.startswith(word)) for word in ("One", "first example"))
    paragraph = [line for line in lines[start:end] if line]
    # No line ends before the first word of the next would not have fitted.
    for line, below in itertools.pairwise(paragraph):
        assert len(line) + 1 + len(below.split()[0]) > columns - 2
    assert lines[end + 1] == "second example"
