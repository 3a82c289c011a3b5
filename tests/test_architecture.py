"""The architecture, read from the source: who may import whom, and what nobody may use."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    name: ROOT / folder / name
    for folder, name in [
        ("sdk", "stmd_sdk"),
        ("training", "stmd_training"),
        ("export", "stmd_export"),
        ("serving", "stmd_serving"),
    ]
}
FILES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(), str(path))
    for folder in (*PACKAGES.values(), ROOT / "benchmarks")
    for path in sorted(folder.rglob("*.py"))
}
# The rooms of the SDK: each may import those below it, none above. The root modules but `pipeline` and
# `sampler` are the ground.
ROOMS = (
    "cli",
    "evaluation",
    "pipeline",
    "sampler",
    "runs",
    "backends",
    "pretrained",
    "data",
    "models",
    "inference",
    "mixtures",
    "operators",
    "codecs",
    "networks",
    "diffusion",
)
GROUND = ("hub", "images", "console", "progress", "config", "files", "locks", "checks", "errors")
# Random functions of PyTorch that read its global generator where no generator is given.
DRAWS = {
    "rand",
    "randn",
    "rand_like",
    "randn_like",
    "randint",
    "randperm",
    "normal",
    "bernoulli",
    "multinomial",
}


def _imports(tree):
    """Every module that a file imports, at its top or inside a function: absolute names alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def _files_of(package):
    return {name: tree for name, tree in FILES.items() if f"/{package}/" in name}


def _importers(files, *modules):
    return {
        name
        for name, tree in files.items()
        for imported in _imports(tree)
        if any(imported == module or imported.startswith(f"{module}.") for module in modules)
    }


def _dotted(node):
    """``torch.random.manual_seed`` of an attribute chain, or the empty string."""
    if isinstance(node, ast.Name):
        return node.id
    below = _dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{below}.{node.attr}" if below else ""


def _mentions(tree):
    return {_dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)} | set(_imports(tree))


def test_the_reading_itself_finds_imports_and_mentions():
    tree = ast.parse("import a.b\ndef f():\n    from c import d\n    e.f.g()\nimport_module('h.i')\nfrom .j import k")
    assert set(_imports(tree)) == {"a.b", "c", "c.d", "h.i"}
    assert {"e.f.g", "e.f"} <= _mentions(tree)
    assert len(_files_of("stmd_sdk")) > 15


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("stmd_sdk", ["stmd_training", "stmd_export", "benchmarks", "tests"]),
        ("stmd_training", ["stmd_export", "stmd_serving", "benchmarks", "tests"]),
        ("stmd_export", ["stmd_training", "stmd_serving", "benchmarks", "tests"]),
        ("stmd_serving", ["stmd_training", "stmd_export", "benchmarks", "tests"]),
    ],
)
def test_packages_see_only_what_is_below_them(package, forbidden):
    assert _importers(_files_of(package), *forbidden) == set()


def test_the_sdk_knows_of_serving_by_its_command_alone():
    assert _importers(_files_of("stmd_sdk"), "stmd_serving") == {"sdk/stmd_sdk/cli/serve.py"}


def test_ray_is_imported_where_it_is_used_alone():
    packages = {name: tree for package in PACKAGES for name, tree in _files_of(package).items()}
    assert _importers(packages, "ray") == {
        "sdk/stmd_sdk/runs/cluster.py",
        "serving/stmd_serving/command.py",
        "serving/stmd_serving/deployment.py",
    }


def _room_of(module):
    """``networks`` of ``stmd_sdk.networks.unet``; the package itself, which names them all lazily, is in none."""
    _, _, below = module.partition(".")
    return below.partition(".")[0]


def _absolute_imports(name, tree):
    """Every module of the SDK that one of its files imports, relative names made absolute."""
    package = Path(name).relative_to("sdk").parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join(package[: len(package) - node.level + 1])
            module = f"{base}.{node.module}" if node.module else base
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "stmd_sdk" else [module]
    yield from (imported for imported in _imports(tree) if imported.startswith("stmd_sdk."))


def _climbing(files):
    """What is wrong with the imports between rooms, a line each."""
    order = {room: place for place, room in enumerate((*ROOMS, *GROUND))}
    for name, tree in files.items():
        own = _room_of(".".join(Path(name).relative_to("sdk").with_suffix("").parts))
        if own in ("__init__", "__main__"):
            continue
        for imported in sorted(set(_absolute_imports(name, tree))):
            room = _room_of(imported)
            if room in order and order[room] < order[own]:
                yield f"{name} imports {imported}: {own} may import {', '.join((*ROOMS, *GROUND)[order[own] + 1 :])}"


def test_rooms_import_only_those_below_them():
    assert list(_climbing(_files_of("stmd_sdk"))) == []


def test_an_import_that_climbs_is_found_and_explained():
    tree = ast.parse("from ..sampler import Sampler\nfrom ..diffusion import noise\nfrom .dit import DiT")
    (line,) = _climbing({"sdk/stmd_sdk/networks/unet.py": tree})
    assert line.startswith("sdk/stmd_sdk/networks/unet.py imports stmd_sdk.sampler: networks may import diffusion, ")


def test_every_module_has_its_place_in_the_order():
    found = {_room_of(".".join(Path(name).relative_to("sdk").with_suffix("").parts)) for name in _files_of("stmd_sdk")}
    assert found - {"__init__", "__main__"} == {*ROOMS, *GROUND}


def _public_names(tree):
    """Functions, classes and type aliases at the top of a file; constants are their module's own."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (one.id for one in node.targets if isinstance(one, ast.Name) and not one.id.isupper())


def _homes(files):
    """Where each public name of these files is defined."""
    homes = {}
    for file, tree in files.items():
        for name in _public_names(tree):
            if not name.startswith("_") and name not in ("main", "table", "plot"):
                homes.setdefault(name, []).append(file)
    return homes


def test_a_name_means_one_thing():
    files = {name: tree for package in PACKAGES for name, tree in _files_of(package).items()}
    assert {name: homes for name, homes in _homes(files).items() if len(homes) > 1} == {}
    twice = {"a.py": ast.parse("class Run: ..."), "b.py": ast.parse("Run = int"), "c.py": ast.parse("RUN = 1")}
    assert _homes(twice) == {"Run": ["a.py", "b.py"]}


def test_nothing_that_executes_a_file_is_used():
    assert _importers(FILES, "pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal") == set()
    loads = ("torch.load", "torch.save", "torch.jit.load", "torch.package")
    assert {name for name, tree in FILES.items() if _mentions(tree) & set(loads)} == set()
    calls = {"eval", "exec"}
    executed = {
        name
        for name, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in calls
    }
    assert executed == set()


# What libraries read for us, and the one place for each: bytes that were checked, or formats that execute nothing.
LOADERS = {
    "InferenceSession": {"sdk/stmd_sdk/backends/session.py"},
    "deserialize_cuda_engine": {"sdk/stmd_sdk/backends/tensorrt.py"},
    "load_dataset": {"sdk/stmd_sdk/data/hugging_face.py"},
    "try_to_load_from_cache": {"sdk/stmd_sdk/codecs/vae.py"},  # finds a file, reads none
    "NoTrainInceptionV3": {"sdk/stmd_sdk/evaluation/inception.py"},  # unpickles bytes of a pinned digest
    "hf_hub_download": set(),
    "snapshot_download": {"sdk/stmd_sdk/hub/client.py"},  # of one commit, its digests checked
    "load_state_dict_from_url": set(),
    "from_single_file": set(),
    "load_checkpoint_and_dispatch": set(),
}


def _named(tree):
    """Every name that a file mentions, imported, called or passed on."""
    names = {getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(tree)}
    return names | {name.rpartition(".")[2] for name in _imports(tree)}


def test_what_libraries_load_for_us_is_loaded_in_one_place():
    packages = {name: tree for package in PACKAGES for name, tree in _files_of(package).items()}
    found = {loader: {name for name, tree in packages.items() if loader in _named(tree)} for loader in LOADERS}
    assert found == LOADERS


def test_no_library_takes_a_model_by_name():
    """``from_pretrained`` is the sampler's own: that of others would download, and some of them unpickle."""
    for name, tree in _files_of("stmd_sdk").items() | _files_of("stmd_training").items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr == "from_pretrained":
                assert _dotted(node) in ("Sampler.from_pretrained", "cls.from_pretrained"), name


def test_arrays_are_read_without_pickle():
    loads = [
        (name, node)
        for name, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _dotted(node.func) in ("np.load", "numpy.load")
    ]
    assert loads
    for name, node in loads:
        allowed = {one.arg: getattr(one.value, "value", None) for one in node.keywords}
        assert allowed.get("allow_pickle") is False, name


@pytest.mark.parametrize("package", ["stmd_sdk", "stmd_training"])
def test_randomness_is_a_noise_key(package):
    draws = {f"torch.{name}" for name in DRAWS}
    found = {
        (name, mention)
        for name, tree in _files_of(package).items()
        for mention in _mentions(tree)
        if mention in draws or mention.startswith(("np.random", "numpy.random", "random."))
    }
    assert found == set()


def test_the_schedule_alone_knows_beta():
    readers = {
        name
        for name, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("beta_min", "beta_max")
    }
    assert readers == {"sdk/stmd_sdk/diffusion/vp.py"}


def test_diffusers_is_imported_by_its_networks_and_its_pipeline_alone_when_a_module_is_imported():
    at_the_top = {
        name
        for name, tree in FILES.items()
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for imported in _imports(node)
        if imported.split(".")[0] == "diffusers" and not name.startswith("benchmarks/")
    }
    assert at_the_top == {
        "sdk/stmd_sdk/networks/unet.py",
        "sdk/stmd_sdk/networks/diffusers_network.py",
        "sdk/stmd_sdk/pipeline.py",
    }
