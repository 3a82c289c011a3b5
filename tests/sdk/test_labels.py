"""Laws of drawing by label, on models of Gaussian classes whose posteriors are known."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from stmd_sdk import InvalidArgumentError, ModelSpec, Noise, Sampler
from stmd_sdk.cli.app import app
from stmd_sdk.codecs.codec import PixelCodec, VectorCodec
from stmd_sdk.diffusion.classes import UNLABELLED, Classes
from stmd_sdk.images import grid
from stmd_sdk.models.checkpoint import save_model
from stmd_sdk.models.objective import DDPM, STMD
from stmd_sdk.networks import DiTConfig, MLPConfig
from stmd_sdk.operators import GaussianNoise, Matrix, Measurement
from stmd_sdk.runs.captured import CapturedRun, Graphs

CPU = torch.device("cpu")
CLASSES = Classes(3, ("left", "top", "right"))
DEVIATION = 0.3
MEANS = torch.tensor([[-2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, -1.0]])  # the last is that of no label
STMD_SPEC = ModelSpec("spots", STMD(), (2,), MLPConfig(width=8, depth=1), VectorCodec(), classes=CLASSES)
DDPM_SPEC = ModelSpec("spots", DDPM(), (2,), MLPConfig(width=8, depth=1), VectorCodec(), classes=CLASSES)


def posterior_of(x_t, t, labels):
    """Mean and deviation of x_0 | x_t of the classes N(MEANS[c], DEVIATION² I)."""
    schedule, means = STMD_SPEC.schedule, MEANS[labels.long()]
    alpha, variance = schedule.alpha(t)[:, None], schedule.variance(t)[:, None]
    total = alpha**2 * DEVIATION**2 + variance
    return means + alpha * DEVIATION**2 / total * (x_t - alpha * means), DEVIATION * (variance / total).sqrt()


def one_step(x, times):
    """STMD's network that draws this posterior in one evaluation: u = z - x_0."""
    (z, x_t), (_, _, t, labels) = x.chunk(2, dim=1), times.unbind(1)
    mean, deviation = posterior_of(x_t, t, labels)
    return z - (mean + deviation * z)


def noise_in(x_t, times):
    """DDPM's network of the same classes: (x_t - α E[x_0 | x_t]) / σ."""
    t, labels = times.unbind(1)
    mean, _ = posterior_of(x_t, t, labels)
    return (x_t - DDPM_SPEC.schedule.alpha(t)[:, None] * mean) / DDPM_SPEC.schedule.sigma(t)[:, None]


SAMPLER = Sampler(one_step, STMD_SPEC, CPU)
LABELS = [2, 0, 1, 1, 0, 2, 2, 0, 1, 0]


@pytest.mark.parametrize(
    "labels", [2, "right", torch.full((400,), 2), np.full(400, 2), [2] * 399 + ["right"], np.int64(2)]
)
@pytest.mark.usefixtures("as_users_call")
def test_who_asks_for_a_class_gets_its_law(labels):
    x = SAMPLER.sample(400, labels=labels, seed=0)
    torch.testing.assert_close(x.mean(0), MEANS[2], atol=4 * DEVIATION / 20, rtol=0)
    assert x.std(0).sub(DEVIATION).abs().max() < 0.05
    assert torch.equal(x, SAMPLER.sample(400, labels="right", seed=0))
    assert (SAMPLER.sample(400, seed=0).mean(0) - MEANS[3]).abs().max() < 0.1


@pytest.mark.usefixtures("as_users_call")
def test_a_class_at_random_is_drawn_with_its_sample_and_all_are_as_likely():
    x = SAMPLER.sample(3000, labels="random", seed=0)
    classes = torch.cdist(x, MEANS[:3]).argmin(1)
    assert torch.bincount(classes).sub(1000).abs().max() < 4 * (3000 * 2 / 9) ** 0.5
    assert torch.equal(x[:10], SAMPLER.sample(10, labels=classes[:10], seed=0))
    alone = [SAMPLER.sample(1, labels="random", seed=0, first=k, batch_invariant=True) for k in (5, 6, 19)]
    torch.testing.assert_close(torch.cat(alone), x[[5, 6, 19]], atol=1e-6, rtol=0)
    some = np.arange(40)
    assert Classes(3).numbers("random", 1, some) != Classes(3).numbers("random", 2, some)
    *_, (_, last, _) = SAMPLER.trajectory(4, labels="random", seed=2)
    assert torch.equal(last, SAMPLER.sample(4, labels="random", seed=2))
    assert Classes(2, ("order", "random")).numbers("random", 0, np.arange(9)) == [1] * 9


def test_classes_are_not_drawn_where_what_is_given_makes_some_likelier():
    """From p(c) they would be, and not from p(c | x_t) or p(c | y)."""
    x_t, seen = torch.zeros(2, 2), Measurement(Matrix(torch.eye(2), (2,)), torch.zeros(1, 2), GaussianNoise(0.5))
    for draw in (
        lambda: SAMPLER.posterior(x_t, 0.5, labels="random"),
        lambda: SAMPLER.transition(x_t, 0.5, 0.2, labels="random"),
        lambda: SAMPLER.condition(seen.operator, seen.y, sigma=0.5).sample(2, labels="random"),
        lambda: SAMPLER.gibbs(seen, 2, labels="random"),
        lambda: SAMPLER.chain(seen, 2, labels="random"),
        lambda: SAMPLER.steer(seen, 2, labels="random"),
    ):
        with pytest.raises(InvalidArgumentError, match="from noise alone"):
            draw()


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 3}, {"batch_invariant": True}, {"guidance": 2.0, "batch_size": 4}]
)
def test_the_label_at_i_is_that_of_sample_first_plus_i_whatever_the_batch(options, recorded):
    sampler = SAMPLER
    if recorded:
        recorder = _repeating()
        sampler = Sampler(one_step, STMD_SPEC, CPU, captured=CapturedRun(Graphs(one_step, STMD_SPEC, CPU, recorder)))
    guidance = options.get("guidance", 1.0)
    alone = [SAMPLER.sample(1, labels=label, seed=5, first=12 + i, guidance=guidance) for i, label in enumerate(LABELS)]
    drawn = sampler.sample(10, labels=LABELS, seed=5, first=12, **options)
    torch.testing.assert_close(drawn, torch.cat(alone), atol=1e-5, rtol=0)
    plain = sampler.sample(10, seed=5, first=12, **({} if guidance != 1 else options))
    assert (plain - drawn).abs().amax(1).min() > 0.1


def _repeating():
    """A recorder on the CPU: a recorded work's result lies in one place, as a graph's does."""

    def record(work):
        result = work()

        def replay():
            with torch.inference_mode():
                return result.copy_(work())

        return replay

    return SimpleNamespace(turn=nullcontext, record=record)


def test_transitions_posteriors_and_trajectories_are_of_the_labels():
    labels = torch.tensor([0, 1, 2, 0])
    x_t, t = Noise.of(3, 4).normal(2), torch.full((4,), 0.7)
    draws = SAMPLER.posterior(x_t, t, draws=500, labels=labels, seed=1)
    mean, deviation = posterior_of(x_t, t, labels)
    assert ((draws.mean(0) - mean) / (deviation / 500**0.5)).abs().max() < 4
    stepped = SAMPLER.transition(x_t, 0.7, 0.0, labels=["left", "top", "right", "left"], seed=1)
    assert torch.equal(stepped, draws[0])
    *_, (_, last, _) = SAMPLER.trajectory(4, labels=labels, seed=2)
    assert torch.equal(last, SAMPLER.sample(4, labels=labels, seed=2))


def test_a_key_brings_its_own_labels():
    key = Noise.of(4, 3).labelled(torch.tensor([1, UNLABELLED, 0]))
    drawn = SAMPLER.sample(3, seed=key)
    assert torch.equal(drawn[::2], SAMPLER.sample(3, seed=4, labels=[1, 1, 0])[::2])
    assert torch.equal(drawn[1], SAMPLER.sample(3, seed=4)[1])


def test_a_condition_and_a_label_hold_together():
    first = Matrix(torch.tensor([[1.0, 0.0]]), (2,))
    x = SAMPLER.condition(first, torch.tensor([[1.5]])).sample(200, labels="right", seed=0, inference_steps=4)
    torch.testing.assert_close(x[:, 0], torch.full((200,), 1.5))
    assert abs(float(x[:, 1].mean())) < 0.1


@pytest.mark.parametrize("method", ["gibbs", "gibbs, resampled", "chain", "steer"])
def test_inference_is_that_of_the_class(method):
    """The first coordinate of class `right` is N(2, 0.3²); seen as 1.4 with deviation 0.3 it is N(1.7, 0.3²/2)."""
    seen = Measurement(Matrix(torch.tensor([[1.0, 0.0]]), (2,)), torch.tensor([[1.4]]), GaussianNoise(DEVIATION))
    match method:
        case "chain":
            result = SAMPLER.chain(seen, 2000, steps=30, labels=2, seed=0)
        case "steer":
            result = SAMPLER.steer(seen, 4000, labels=2, seed=0, inference_steps=6)
        case _:
            result = SAMPLER.gibbs(seen, 2000, labels=2, seed=0, resample=method != "gibbs")
    x = result.resampled(0) if method == "steer" else result.samples
    torch.testing.assert_close(x.mean(0), torch.tensor([1.7, 0.0]), atol=0.04, rtol=0)
    torch.testing.assert_close(x[:, 0].std(), torch.tensor(DEVIATION / 2**0.5), atol=0.03, rtol=0)


def test_independent_draws_may_be_of_several_classes_and_those_that_cooperate_may_not():
    seen = Measurement(Matrix(torch.tensor([[0.0, 1.0]]), (2,)), torch.tensor([[0.0]]), GaussianNoise(5.0))
    labels = torch.arange(300) % 3
    x = SAMPLER.gibbs(seen, 300, labels=labels, seed=0).samples
    for c in range(3):
        torch.testing.assert_close(x[labels == c].mean(0), MEANS[c], atol=0.15, rtol=0)
    for call in (
        lambda: SAMPLER.chain(seen, 300, labels=labels),
        lambda: SAMPLER.gibbs(seen, 300, labels=labels, resample=True),
        lambda: SAMPLER.steer(seen, 300, labels=labels),
    ):
        with pytest.raises(InvalidArgumentError, match="must be of one class"):
            call()


@pytest.mark.parametrize("w", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(("spec", "network"), [(STMD_SPEC, one_step), (DDPM_SPEC, noise_in)], ids=["stmd", "ddpm"])
def test_guidance_moves_the_mean_of_gaussian_classes_in_proportion(spec, network, w):
    """Posteriors of equal deviation: with + (w - 1) (with - without) is that of a class about m_0 + w (m_c - m_0)."""
    x = Sampler(network, spec, CPU).sample(300, labels=0, guidance=w, seed=0)
    expected = MEANS[3] + w * (MEANS[0] - MEANS[3])
    torch.testing.assert_close(x.mean(0), expected, atol=4 * DEVIATION / 300**0.5, rtol=0)


def test_guidance_costs_two_evaluations_in_one_batch_and_none_where_it_changes_nothing():
    rows = []

    def counted(x, times):
        rows.append(len(x))
        return one_step(x, times)

    sampler = Sampler(counted, STMD_SPEC, CPU)
    plain = sampler.sample(6, labels=1, inference_steps=2, seed=0)
    assert rows == [6, 6]
    assert torch.equal(sampler.sample(6, labels=1, guidance=1.0, inference_steps=2, seed=0), plain)
    assert rows == [6] * 4
    sampler.sample(6, labels=1, guidance=3.0, inference_steps=2, seed=0)
    assert rows == [6] * 4 + [12, 12]


PLAIN = Sampler(lambda x, times: x[:, :2], ModelSpec("plain", STMD(), (2,), MLPConfig(), VectorCodec()), CPU)
BARE = Sampler(
    one_step, ModelSpec("bare", STMD(), (2,), MLPConfig(), VectorCodec(), classes=Classes(3, null=False)), CPU
)


@pytest.mark.parametrize(
    ("sampler", "options", "says"),
    [
        (SAMPLER, {"labels": 3}, "labels must be an integer from 0 to 2, got 3"),
        (SAMPLER, {"labels": -1}, "labels must be an integer from 0 to 2"),
        (SAMPLER, {"labels": [0, 1]}, "labels: got 2 for 4 samples"),
        (SAMPLER, {"labels": torch.zeros(4)}, "labels must be an integer from 0 to 2, got 0.0"),
        (SAMPLER, {"labels": torch.tensor([True] * 4)}, "labels must be an integer from 0 to 2, got True"),
        (SAMPLER, {"labels": True}, "labels must be an integer"),
        (SAMPLER, {"labels": 1.5}, "labels must be an integer"),
        (SAMPLER, {"labels": torch.zeros(2, 2, dtype=torch.long)}, "labels"),
        (SAMPLER, {"labels": "down"}, "no class 'down'; there are left, top, right"),
        (BARE, {"labels": "left"}, "no class 'left'; there are the numbers 0 to 2"),
        (PLAIN, {"labels": 0}, "the model has no classes"),
        (PLAIN, {"seed": Noise.of(0, 4).labelled(torch.zeros(4, dtype=torch.long))}, "the model has no classes"),
        (SAMPLER, {"seed": Noise.of(0, 4).labelled(torch.full((4,), 3))}, "labels must lie in 0 to 2, got 3"),
        (BARE, {}, "trained with labels alone: say which"),
        (PLAIN, {"guidance": 2.0}, "no classes to guide to"),
        (BARE, {"labels": 0, "guidance": 2.0}, "trained with labels alone"),
        (SAMPLER, {"guidance": 2.0}, "guidance goes with labels"),
        (SAMPLER, {"labels": 0, "guidance": -1.0}, "guidance must be a finite number of at least 0, got -1"),
        (SAMPLER, {"labels": 0, "guidance": float("nan")}, "guidance must be a finite number"),
        (SAMPLER, {"labels": 0, "guidance": "2"}, "guidance must be a finite number"),
    ],
)
@pytest.mark.usefixtures("as_users_call")
def test_bad_labels_and_guidance_are_one_clear_error(sampler, options, says):
    with pytest.raises(InvalidArgumentError, match=says):
        sampler.sample(4, **{"seed": 0, **options})


# The command line


@pytest.fixture
def model(tmp_path):
    spec = ModelSpec("tiny", STMD(), (1, 4, 4), DiTConfig(depth=1, width=8, heads=1), PixelCodec(), classes=CLASSES)
    network = spec.build_network()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_model(tmp_path / "tiny.safetensors", spec, network.state_dict())
    return tmp_path / "tiny.safetensors"


def stmd(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_draws_what_the_library_draws(model, tmp_path):
    sampler, options = Sampler.from_pretrained(model, device="cpu"), ("sample", "-m", model, "--seed", 3)
    for label, n, labels in (("top", 5, 1), ("2", 5, 2), ("each", 6, [0, 0, 1, 1, 2, 2])):
        out = tmp_path / f"{label}.npz"
        result = stmd(*options, "--label", label, "-n", n, "--guidance", 1.5, "--first", 4, "-o", out)
        assert result.exit_code == 0, result.output
        expected = sampler.sample(n, labels=labels, guidance=1.5, seed=3, first=4)
        assert np.array_equal(np.load(out)["x"], expected.numpy())
    result = stmd(*options, "--label", "each", "-o", tmp_path / "x.png")
    assert "24 samples of tiny" in result.output
    assert "each class in its turn" in result.output


def test_a_trajectory_is_of_the_class_that_was_asked_for(model, tmp_path):
    options = "trajectory", "-m", model, "-n", 3, "--steps", 2, "--seed", 0
    result = stmd(*options, "--label", "right", "-o", tmp_path / "t.png")
    assert result.exit_code == 0, result.output
    assert "class right" in " ".join(result.output.split())
    last = grid(Sampler.from_pretrained(model).sample(3, inference_steps=2, labels=2, seed=0), columns=3)
    picture = Image.open(tmp_path / "t.png")
    assert picture.crop((0, 2 * last.height, *picture.size)).tobytes() == last.tobytes()
    refused = stmd(*options, "--label", "down", "-o", tmp_path / "u.png")
    assert (refused.exit_code, (tmp_path / "u.png").exists()) == (2, False)


def test_a_run_goes_on_with_its_own_label_alone(model, tmp_path):
    options = "sample", "-m", model, "-n", 6, "--seed", 1, "-o", tmp_path / "drawn"
    assert stmd(*options, "--label", "top").exit_code == 0
    assert stmd(*options, "--label", 1).exit_code == 0
    for other in ((), ("--label", "left"), ("--label", "top", "--guidance", 2), ("--label", "each")):
        result = stmd(*options, *other)
        assert result.exit_code == 2
        assert "is of another run" in result.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--label", "down"), "no class 'down'; there are left, top, right"),
        (("--label", "3"), "labels must be an integer from 0 to 2"),
        (("--label", "each", "-n", 4), "as many of each of 3 classes, not --n 4"),
        (("--guidance", 2), "guidance goes with labels"),
        (("--label", "top", "--guidance", "nan"), "guidance must be a finite number"),
    ],
)
def test_bad_labels_are_one_line(model, tmp_path, arguments, says):
    result = stmd("sample", "-m", model, *arguments, "-o", tmp_path / "x.npz")
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("options", [{"labels": [0, 1, 2, 0, 1]}, {"labels": "top", "guidance": 2.0}, {}])
def test_graphs_draw_the_labels_that_eager_draws(model, options):
    captured, eager = (Sampler.from_pretrained(model, device="cuda", eager=eager) for eager in (False, True))
    assert captured.captured is not None
    for seed in (1, 2):  # the first records, the second replays
        drawn = captured.sample(5, seed=seed, **options)
        torch.testing.assert_close(drawn, eager.sample(5, seed=seed, **options), atol=1e-4, rtol=0)
