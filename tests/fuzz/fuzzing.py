"""Damaged files of every kind that is read: each must be refused by one error of ours, or be read as it was.

    python tests/fuzz/fuzzing.py 300                     # mutations of each kind; all kinds
    python tests/fuzz/fuzzing.py 1000 checkpoint onnx

Prints one JSON line a kind. Mutation i of a kind is the same in every run. Each kind runs in a process of its own, with
two gigabytes beyond what it starts with and ten seconds a mutation; what ends that process is counted and passed over.
"""

import contextlib
import gzip
import hashlib
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

SECONDS, BYTES = 10, 2 << 30
HOSTILE = [
    b"0", b"-1", b"1e400", b"NaN", b"-Infinity", b"1" + b"0" * 18, b"9" * 5000, b"2147483648", b"null", b"[]", b"{}",
    b'"\\ud800"', b'"\\u001b]0;x\\u0007"', b"[" * 3000, b"true", b'""', b"1.5", b"[1" + b",1" * 2000 + b"]",
]  # fmt: skip


def mutated(data: bytes, draw: random.Random) -> bytes:
    """One of the damages that disks, transfers and people do."""
    first, last = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    width = min(draw.choice((1, 4, 64, 1024)), len(data) - first)
    header = draw.randrange(min(64, len(data)))
    damages = (
        lambda: data[:first],
        lambda: data[:first] + data[last:],
        lambda: data[:last] + data[first:],
        lambda: data[:first] + draw.randbytes(draw.randrange(1, 20)) + data[first:],
        lambda: data[:first] + draw.choice((b"\0", b"\xff", b"\x7f")) * width + data[first + width :],
        lambda: b"\xef\xbb\xbf" + data,
        lambda: data[:header] + draw.randbytes(1) + data[header + 1 :],
        lambda: _number_replaced(data, draw),
        lambda: _number_replaced(data, draw),
        lambda: _flipped(data, draw),
        lambda: _flipped(data, draw),
    )
    return draw.choice(damages)()


def _flipped(data: bytes, draw: random.Random) -> bytes:
    flipped = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 8))):
        flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(flipped)


def _number_replaced(data: bytes, draw: random.Random) -> bytes:
    """A run of digits, as in JSON, TOML or an array's header, becomes something hostile."""
    digits = [i for i in range(min(len(data), 20_000)) if 48 <= data[i] <= 57]
    if not digits:
        return data + draw.choice(HOSTILE)
    first = last = draw.choice(digits)
    while last < len(data) and 48 <= data[last] <= 57:
        last += 1
    return data[:first] + draw.choice(HOSTILE) + data[last:]


def _hash(*arrays) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(tuple(array.shape)).encode() + array.contiguous().numpy().tobytes())
    return digest.hexdigest()


class NaNAcceptedError(Exception):
    """A reader gave out numbers that are none."""


def _finite(tensor):
    if not bool(tensor.isfinite().all()):
        raise NaNAcceptedError
    return tensor


class Kind:
    """Files of one kind in a folder: ``damaged`` names those that are mutated, ``read`` reads them all."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.damaged = self.make()

    def make(self) -> list[Path]:
        """Write the whole files."""
        raise NotImplementedError

    def read(self) -> object:
        """What a user gets; equal for equal numbers."""
        raise NotImplementedError


def _tiny():
    from stmd_training.recipe import load_recipe

    return load_recipe("mixture2d-calibrated", ("network={kind='mlp', width=16, depth=1}",))


class Checkpoint(Kind):
    def make(self):
        from stmd_sdk.models.checkpoint import save_model

        spec = _tiny().model_spec(1.25, {"data": "mixture2d", "steps": 10})
        save_model(self.folder / "model.safetensors", spec, spec.build_network().state_dict())
        return [self.folder / "model.safetensors"]

    def read(self):
        from stmd_sdk.models.checkpoint import load_model

        spec, network = load_model(self.damaged[0])
        return spec, _hash(*(_finite(tensor) for tensor in network.state_dict().values()))


class State(Kind):
    def make(self):
        from stmd_training.state import save_state

        state = self.fresh()
        for parameter in state.parameters.values():
            parameter.grad = parameter.detach().clone()
        state.optimizer.step()
        state.step = 1
        save_state(self.folder / "state.safetensors", state, _tiny(), 1.5)
        return [self.folder / "state.safetensors"]

    def fresh(self):
        import torch

        from stmd_training.steps import TrainState

        recipe = _tiny()
        return TrainState.fresh(recipe.model_spec(1.25, {}), recipe, torch.device("cpu"))

    def read(self):
        from stmd_training.state import load_state

        state = self.fresh()
        seconds = load_state(self.damaged[0], state, _tiny())
        moments = [state.optimizer.state[p][m] for p in state.parameters.values() for m in ("exp_avg", "exp_avg_sq")]
        weights = [parameter.detach() for parameter in state.parameters.values()]
        return state.step, seconds, _hash(*map(_finite, (*weights, *state.ema.values(), *moments)))


class ClassifierFile(Kind):
    def make(self):
        import torch

        from stmd_sdk.evaluation.features import Classifier, ClassifierFacts
        from stmd_training.classifier import save_classifier

        torch.manual_seed(0)
        facts = ClassifierFacts((1, 8, 8), "digits", 10, 0.97, 5, 0)
        save_classifier(self.folder / "c.safetensors", facts, Classifier(facts.shape, facts.classes))
        return [self.folder / "c.safetensors"]

    def read(self):
        from stmd_sdk.evaluation.features import load_classifier

        facts, classifier = load_classifier(self.damaged[0])
        return facts, _hash(*map(_finite, classifier.state_dict().values()))


class Onnx(Kind):
    def make(self):
        import numpy as np
        from onnx import helper, numpy_helper

        from stmd_sdk.models.artefact import Artefact, sealed

        given = [helper.make_tensor_value_info("x", 1, ["b", 4]), helper.make_tensor_value_info("times", 1, ["b", 3])]
        nodes = [helper.make_node("MatMul", ["x", "w"], ["u"])]
        weights = [numpy_helper.from_array(np.ones((4, 2), np.float32), "w")]
        graph = helper.make_graph(nodes, "g", given, [helper.make_tensor_value_info("u", 1, ["b", 2])], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        artefact = Artefact(kind="network", precision="fp32", opset=21, weights="0" * 64)
        spec = _tiny().model_spec(1.25, {}).to_json()
        (self.folder / "n.onnx").write_bytes(sealed(model.SerializeToString(), spec, artefact))
        return [self.folder / "n.onnx"]

    def read(self):
        import torch

        from stmd_sdk.backends.onnx import load_onnx

        spec, network = load_onnx(self.damaged[0], torch.device("cpu"))
        return spec, network(torch.ones(1, 4), torch.ones(1, 3)).tolist()


class Engine(Kind):
    def make(self):
        from stmd_sdk.backends.tensorrt import BatchProfile, EngineManifest, manifest_path
        from stmd_sdk.models.artefact import Artefact

        data = random.Random(0).randbytes(5000)
        manifest = EngineManifest(
            hashlib.sha256(data).hexdigest(), "tensorrt-rtx", "1.7.1.116", ("sm120",), BatchProfile(1, 4, 8),
            Artefact(kind="network", precision="fp32", opset=21, weights="0" * 64), "0" * 64, False, "no GPU",
        )  # fmt: skip
        path = self.folder / "n.engine"
        path.write_bytes(data)
        spec = json.loads(_tiny().model_spec(1.25, {}).to_json())
        manifest_path(path).write_text(manifest.to_json(spec, {"largest": 1e-6}))
        return [path, manifest_path(path)]

    def read(self):
        from stmd_sdk.backends.tensorrt import read_engine

        return read_engine(self.damaged[0])


class RecipeFile(Kind):
    def make(self):
        from stmd_training.recipe import RECIPES

        text = (RECIPES / "mixture2d-calibrated.toml").read_text() + "\n" + (RECIPES / "mixture2d.toml").read_text()
        text = "\n".join(line for line in text.splitlines() if "base" not in line)
        seen, lines = set(), list[str]()
        for line in text.splitlines():
            key = line.split("=")[0].strip()
            if key not in seen or not key:
                lines.append(line)
            seen.add(key)
        (self.folder / "r.toml").write_text('base = "mixture2d"\n' + "\n".join(lines))
        try:
            self.damaged = [self.folder / "r.toml"]
            self.read()
        except Exception:
            (self.folder / "r.toml").write_text('base = "mixture2d"\nname = "r"\nsteps = 100\nlearning_rate = 1e-3\n')
        return [self.folder / "r.toml"]

    def read(self):
        from stmd_training.recipe import load_recipe

        return load_recipe(str(self.damaged[0]))


class VaeConfig(Kind):
    def make(self):
        from stmd_sdk.codecs.vae import CONFIG

        values = {
            "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [8, 16], "in_channels": 3,
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"], "latent_channels": 4,
            "layers_per_block": 1, "norm_num_groups": 4, "out_channels": 3, "sample_size": 32,
            "scaling_factor": 0.18215, "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
        }  # fmt: skip
        (self.folder / CONFIG).write_text(json.dumps(values, indent=2))
        return [self.folder / CONFIG]

    def read(self):
        from stmd_sdk.codecs.vae import _build

        return sum(parameter.numel() for parameter in _build(self.damaged[0]).parameters())


class Idx(Kind):
    def make(self):
        pixels = random.Random(0).randbytes(20 * 8 * 8)
        content = bytes([0, 0, 8, 3]) + struct.pack(">3I", 20, 8, 8) + pixels
        (self.folder / "plain").mkdir()
        (self.folder / "packed").mkdir()
        (self.folder / "plain" / "train-images-idx3-ubyte").write_bytes(content)
        (self.folder / "packed" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content, mtime=0))
        return [next((self.folder / name).iterdir()) for name in ("plain", "packed")]

    def read(self):
        return [_data_hash(path.parent) for path in self.damaged]


class Npz(Kind):
    def make(self):
        import numpy as np

        np.savez(self.folder / "x.npz", x=np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
        return [self.folder / "x.npz"]

    def read(self):
        return _data_hash(self.damaged[0])


class Picture(Kind):
    def make(self):
        from PIL import Image

        picture = Image.frombytes("RGB", (28, 28), random.Random(0).randbytes(28 * 28 * 3))
        for name in ("0.png", "1.jpg", "2.webp"):
            (self.folder / name).parent.mkdir(exist_ok=True)
            picture.save(self.folder / name)
        return [self.folder / name for name in ("0.png", "1.jpg", "2.webp")]

    def read(self):
        from stmd_sdk.data.pictures import read_picture, stream_pictures

        for path in self.damaged:
            with contextlib.suppress(_ours()):
                read_picture(path, 1)
        return [_hash(picture) for picture in stream_pictures(self.folder, 16)], _data_hash(self.folder)


class Latents(Kind):
    def make(self):
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from PIL import Image

        from stmd_sdk.codecs.codec import LatentCodec
        from stmd_sdk.data.latents import cache_latents

        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16), norm_num_groups=4,
        ).save_pretrained(self.folder / "vae")  # fmt: skip
        (self.folder / "pictures").mkdir()
        for i in range(6):
            Image.frombytes("RGB", (16, 16), random.Random(i).randbytes(768)).save(self.folder / f"pictures/{i}.png")
        codec = LatentCodec(vae=str(self.folder / "vae"), factor=2)
        cache_latents(str(self.folder / "pictures"), self.folder / "latents", codec, 16, shard_size=4)
        return sorted(path for path in (self.folder / "latents").iterdir() if path.is_file())

    def read(self):
        return _data_hash(self.folder / "latents")


class LogLine(Kind):
    def make(self):
        lines = [json.dumps({"step": step, "loss": 1 / step}) for step in range(1, 20)]
        (self.folder / "log.jsonl").write_text("\n".join(lines) + "\n")
        return [self.folder / "log.jsonl"]

    def read(self):
        from stmd_training.log import _lines_up_to

        return len(_lines_up_to(self.damaged[0], 10))


def _data_hash(source: Path) -> str:
    import torch

    from stmd_sdk.data.load import load_data

    data = load_data(source)
    return _hash(*(_finite(data[torch.tensor([i])]) for i in range(len(data))))


KINDS = {
    "checkpoint": Checkpoint, "state": State, "classifier": ClassifierFile, "latents": Latents, "onnx": Onnx,
    "engine": Engine, "recipe": RecipeFile, "idx": Idx, "npz": Npz, "picture": Picture, "vae": VaeConfig,
    "log": LogLine,
}  # fmt: skip


def _ours():
    from stmd_sdk.errors import StmdError

    return StmdError


def _outcome(kind: Kind, whole: object) -> str:
    try:
        read = kind.read()
    except _ours() as error:
        long = len(str(error)) > 2000
        return "refused, at length" if long else "refused"
    except Exception as error:
        print(f"{type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
        return f"foreign: {type(error).__name__}"
    return "accepted" if read == whole else "accepted with other numbers"


def _child(names: list[str], folder: Path, first: int, count: int) -> None:
    """Try mutations of each kind, of the first from number ``first`` on, with a line before and one after each."""
    import warnings

    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in names:
        (folder / name).mkdir()
        kind = KINDS[name](folder / name)
        whole = kind.read()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
        for i in range(first if name == names[0] else 0, count):
            draw = random.Random(f"{name} {i}")
            path = draw.choice(kind.damaged)
            content = path.read_bytes()
            path.write_bytes(mutated(content, draw))
            print(f"{name} {i}", flush=True)
            signal.alarm(SECONDS)  # whose default ends the process, whatever it is in
            outcome = _outcome(kind, whole)
            signal.alarm(0)
            print(outcome, flush=True)
            path.write_bytes(content)


def fuzz(names: list[str], count: int) -> dict[str, Counter[str]]:
    """How ``count`` mutations of each kind ended. One process tries them; another goes on behind what ends it."""
    outcomes, waiting, first = {name: Counter[str]() for name in names}, list(names), 0
    while waiting:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--child", ",".join(waiting), folder, str(first), str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        for tried, outcome in zip(lines[::2], lines[1::2], strict=False):
            outcomes[tried.split()[0]][outcome] += 1
        if done.returncode == 0:
            break
        if len(lines) % 2 == 0:  # it ended between two mutations: by itself
            raise RuntimeError(done.stderr[-2000:])
        name, number = lines[-1].split()
        how = "hang" if done.returncode == -signal.SIGALRM else f"crash {done.returncode}"
        outcomes[name][f"{how} at {number}"] += 1
        waiting, first = waiting[waiting.index(name) :], int(number) + 1
    return outcomes


def main() -> None:
    """Fuzz the kinds that are named, or all."""
    if sys.argv[1:2] == ["--child"]:
        names, folder, first, count = sys.argv[2:]
        _child(names.split(","), Path(folder), int(first), int(count))
        return
    for name in sys.argv[2:] or KINDS:
        print(json.dumps({"kind": name, **fuzz([name], int(sys.argv[1]))[name]}), flush=True)


if __name__ == "__main__":
    main()
