"""Models put on the Hub come back bit by bit, with a card that says what they are."""

import io
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from stmd_sdk import CheckpointError, InvalidArgumentError, OutputError, Sampler
from stmd_sdk.cli.app import app
from stmd_sdk.models.checkpoint import BUNDLED, read_spec, resolve_model
from stmd_sdk.runs.card import model_card, publish_model

NAME = "someone/eight-modes"
FINDING = {"measure": "variance ratio", "t": 0.5, "value": 1.0021, "standard_error": 0.004, "within": True}
CERTIFICATE = {
    "model": "mixture2d",
    "data": "mixture2d",
    "verdict": "fail",
    "pairs": 16384,
    "findings": [FINDING, FINDING | {"t": 1.0, "value": 1.2, "within": False}],
}


@pytest.fixture
def certificate(tmp_path):
    """A function that writes a certificate, with changes, and gives its path."""

    def write(**changes):
        path = tmp_path / "certificate.json"
        path.write_text(json.dumps(CERTIFICATE | changes))
        return path

    return write


def pushed(hub):
    (repository,) = hub.repositories.values()
    return repository.commits[repository.refs["main"]]


def test_what_a_sampler_puts_there_draws_the_same_and_is_the_same_file_when_put_there_again(hub):
    sampler = Sampler.from_pretrained("mixture2d", device="cpu")
    where = sampler.push_to_hub(NAME)
    assert where == f"{hub.url}/{NAME}/commit/{hub.repositories[NAME].refs['main']}"
    assert not hub.repositories[NAME].private
    again = Sampler.from_pretrained(NAME, device="cpu")
    assert again.spec == sampler.spec
    assert torch.equal(again.sample(8, seed=4), sampler.sample(8, seed=4))
    again.push_to_hub("someone/copy")
    first, second = (one.commits[one.refs["main"]] for one in hub.repositories.values())
    assert first["model.safetensors"] == second["model.safetensors"]


def test_the_command_puts_the_very_file_there_and_what_it_comes_with(hub, certificate):
    command = ["push", "mixture2d", NAME, "--certificate", str(certificate()), "--private"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert hub.repositories[NAME].refs["main"] in done.stdout
    assert hub.repositories[NAME].private
    files = pushed(hub)
    assert sorted(files) == ["README.md", "certificate.json", "model.safetensors", "samples.png"]
    assert files["model.safetensors"] == (BUNDLED / "mixture2d.safetensors").read_bytes()
    assert resolve_model(NAME).read_bytes() == files["model.safetensors"]
    assert files["certificate.json"] == certificate().read_bytes()
    assert Image.open(io.BytesIO(files["samples.png"])).size == (512, 512)


def test_the_card_says_the_spec_how_to_draw_and_what_the_certificate_found(hub, certificate):
    varied = {"variety": {"between_seeds": 0.9, "error": 0.1, "near_copies": 0.02, "says": "A new seed <b>matters</b>"}}
    Sampler.from_pretrained("mixture2d", device="cpu").push_to_hub(NAME, certificate=certificate(**varied))
    card = pushed(hub)["README.md"].decode()
    assert card.startswith("---\nlibrary_name: stmd-sdk\n")
    assert f'Sampler.from_pretrained("{NAME}")' in card
    assert "![samples](samples.png)" in card
    for fact, value in read_spec(resolve_model("mixture2d")).training.items():
        assert f"| {fact} | {value:g} |" in card if isinstance(value, float) else f"| {fact} | {value} |" in card
    assert "| measure | t = 0.5 | t = 1 |" in card
    assert "| variance ratio | 1.002 ± 0.004 | **1.200 ± 0.004** |" in card
    assert "It does *not* pass its certificate" in card
    assert card.endswith("\n\nA new seed &lt;b>matters&lt;/b>\n")
    Sampler.from_pretrained("mixture2d", device="cpu").push_to_hub(NAME)  # again, without one: a commit of its own
    assert "No certificate came with it" in pushed(hub)["README.md"].decode()
    assert len(hub.repositories[NAME].commits) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "mnist"}, "is the certificate of mnist, not of mixture2d"),
        ({"findings": []}, "is no certificate"),
        ({"findings": [{"measure": "x"}]}, "is no certificate"),
        ({"findings": [FINDING | {"value": "1"}]}, "is no certificate"),
        ({"verdict": "perfect"}, "is no certificate"),
    ],
)
def test_a_certificate_of_something_else_is_refused_before_anything_is_sent(changes, said, hub, certificate):
    with pytest.raises(InvalidArgumentError, match=said):
        Sampler.from_pretrained("mixture2d").push_to_hub(NAME, certificate=certificate(**changes))
    assert hub.asked == []


@pytest.mark.parametrize("name", ["eight-modes", "a/b/c", "./a/b", "a/b@main", "a/model.safetensors", ""])
def test_what_is_no_name_of_a_repository_is_refused_before_anything_is_sent(name, hub):
    with pytest.raises(InvalidArgumentError, match="a repository is named owner/name"):
        Sampler.from_pretrained("mixture2d").push_to_hub(name)
    assert hub.asked == []


def test_weights_that_are_not_pytorchs_in_float32_are_refused(hub):
    with pytest.raises(InvalidArgumentError, match="in float32: put its file there with stmd push"):
        Sampler.from_pretrained("mixture2d", dtype=torch.bfloat16).push_to_hub(NAME)
    assert hub.asked == []


def test_who_may_not_write_is_told_so(hub, monkeypatch):
    sampler = Sampler.from_pretrained("mixture2d")
    with pytest.raises(OutputError, match=r"stranger/model may not be written to .* hf auth login"):
        sampler.push_to_hub("stranger/model")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OutputError, match=r"cannot be written to http://127\.0\.0\.1:9"):
        sampler.push_to_hub(NAME)


def test_strings_of_a_foreign_spec_stay_within_their_cells():
    spec = replace(read_spec(resolve_model("mixture2d")), training={"note": "a | b\n# <script>"})
    assert "| note | a \\| b # &lt;script> |" in model_card(NAME, spec, None, picture=False)


def test_an_exported_file_is_not_put_there(hub, tmp_path):
    spec = read_spec(resolve_model("mixture2d"))
    with pytest.raises(InvalidArgumentError, match=r"a \.safetensors file of this project"):
        publish_model(NAME, tmp_path / "m.onnx", spec, lambda n, **_: torch.zeros(n, 2), None, False)
    with pytest.raises(CheckpointError, match="neither a file"):
        Sampler.from_pretrained("mixture2e")
