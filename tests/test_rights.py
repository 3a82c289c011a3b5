"""Without the right to read, to search or to write, every command says so in one line, and has written nothing."""

import json
import os
import shutil
import sys
from importlib import import_module

import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="gives rights away as Linux counts them")
OVERRIDE = 0b110  # the capabilities to write and to read whatever the permissions say
SOMEBODY = 65534
MAIN = {
    "stmd": "stmd_sdk.cli.app",
    "stmd-train": "stmd_training.cli",
    "stmd-cache-latents": "stmd_training.caching",
    "stmd-train-classifier": "stmd_training.classify",
    "stmd-export": "stmd_export.cli",
}
COMMANDS = """
    stmd sample -m digits -n 2 -o {}/a.png
    stmd sample -m digits -n 2 -o {}/a.npz
    stmd sample -m digits -n 2 -o {}/a.tar
    stmd sample -m digits -n 2 -o {}/a
    stmd sample -m digits -n 2 -o {}
    stmd sample -m {}/model.safetensors -n 2 -o b.npz
    stmd sample -m {}/model.onnx -n 2 -o b.npz
    stmd sample -m {}/model.engine -n 2 -o b.npz
    stmd info {}/model.safetensors
    stmd info {}/model.onnx
    stmd certify {}/model.safetensors
    stmd certify digits --out {}/report
    stmd evaluate {}/model.safetensors --data digits --features pixels
    stmd evaluate digits --data {}/data.npz --features pixels
    stmd evaluate digits --data digits --features pixels --out {}/report
    stmd restore {}/0.png --operator sr2 -m digits -o r.png
    stmd restore 0.png --operator sr2 --simulate -m digits -o {}/r.png
    stmd restore 0.png --operator mask:{}/0.png -m digits -o r.png
    stmd serve digits --write-config {}/serve.yaml
    stmd serve {}/model.safetensors --write-config serve.yaml
    stmd-train digits --quiet --out {}/run
    stmd-train digits --quiet --out {}
    stmd-train digits --quiet --data {}/data.npz --out run
    stmd-train digits --quiet --data {} --out run
    stmd-train {}/recipe.toml --quiet --out run
    stmd-train digits --quiet --init {}/model.safetensors --out run
    stmd-cache-latents {} --vae vae --out latents --size 16
    stmd-cache-latents pictures --vae {}/vae --out latents --size 16
    stmd-train-classifier --data {} --out c.safetensors
    stmd-train-classifier --data pictures --out {}/c.safetensors
    stmd-export --ckpt {}/model.safetensors --onnx --out exported
    stmd-export --ckpt digits --onnx --out {}/exported
    stmd-export --ckpt digits --onnx --out {}
"""


def outcomes(commands, folder):
    """(exit code, what it printed as errors) of each command in ``folder``, in a child without rights over others'."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            os.chdir(folder)
            _without_rights()
            with os.fdopen(writer, "w") as told:
                for command in commands:
                    told.write(json.dumps(_outcome(command.split())) + "\n")
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        found = [json.loads(line) for line in told]
    os.waitpid(child, 0)
    return found


def _without_rights():
    """Root's files stay root's, in a virtual environment of its own too; others' are closed as they are to anybody."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0], sets[1] = sets[0] & ~OVERRIDE, sets[1] & ~OVERRIDE  # those in effect, and those that may come back
    assert libc.capset(header, sets) == 0


def _outcome(arguments):
    import tempfile

    with tempfile.TemporaryFile("w+") as said:
        kept, sys.stderr, sys.stdout = sys.stderr, said, said
        sys.argv, code = arguments, 0
        try:
            import_module(MAIN[arguments[0]]).main()
        except SystemExit as stopped:
            code = stopped.code
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=said)
            code = -1
        finally:
            sys.stderr = sys.stdout = kept
        said.seek(0)
        return code, said.read()


@pytest.fixture(scope="module")
def _imported():
    """What the commands import, once, and not in each child."""
    from stmd_sdk import Sampler

    Sampler.from_pretrained("digits")
    others = "training.classifier", "training.run", "sdk.evaluation.certify", "sdk.data.latents", "sdk.runs.stream"
    for name in (*MAIN.values(), *(f"stmd_{other}" for other in others), "stmd_export.onnx_export"):
        import_module(name)


@pytest.fixture
def work(tmp_path, vae_folder, _imported):
    """A folder with what the commands read that is one's own."""
    shutil.copytree(vae_folder, tmp_path / "vae")
    (tmp_path / "pictures").mkdir()
    for path in (tmp_path / "0.png", tmp_path / "pictures" / "0.png"):
        Image.new("L", (8, 8), 255).save(path)
    return tmp_path


def closed(folder, mode):
    folder.chmod(mode)
    if os.geteuid() == 0:
        os.chown(folder, SOMEBODY, SOMEBODY)
    return folder


def snapshot(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def judged(commands, found, says):
    assert len(found) == len(commands)
    for command, (code, said) in zip(commands, found, strict=True):
        assert code == 2, (command, said)
        if said.startswith("Usage: "):  # an option's value that Typer itself refuses
            assert "is not readable." in said, (command, said)
        else:
            *_, last = said.splitlines()
            assert last.startswith("error: "), (command, said)
            assert said.count("error") == 1, (command, said)
            assert any(part in last for part in says), (command, said)


def judged_in_a_closed_folder(work, mode, lines):
    commands = [line.format("closed") for line in lines]
    (work / "closed").mkdir()
    closed(work / "closed", mode)
    try:
        before = snapshot(work)
        judged(commands, outcomes(commands, work), ("Permission denied", "no permission"))
        assert snapshot(work) == before
    finally:
        (work / "closed").chmod(0o700)


def test_a_folder_that_one_may_not_search(work):
    judged_in_a_closed_folder(work, 0, [line.strip() for line in COMMANDS.strip().splitlines()])


def test_a_folder_that_one_may_not_write_to(work):
    outputs = ("-o {}", "--out {}")
    lines = [line.strip() for line in COMMANDS.strip().splitlines()]
    judged_in_a_closed_folder(work, 0o555, [line for line in lines if any(part in line for part in outputs)])


def test_files_that_one_may_not_read(work):
    """Each is there, and its permissions are nobody's."""
    names = "model.safetensors", "model.onnx", "model.engine", "data.npz", "0.png", "recipe.toml"
    (work / "theirs").mkdir()
    for name in names:
        (work / "theirs" / name).write_bytes(b"secret")
        closed(work / "theirs" / name, 0)
    lines = [line.strip() for line in COMMANDS.strip().splitlines()]
    commands = [line.format("theirs") for line in lines if any(f"{{}}/{name}" in line for name in names)]
    before = snapshot(work)
    judged(commands, outcomes(commands, work), ("Permission denied",))
    assert snapshot(work) == before
