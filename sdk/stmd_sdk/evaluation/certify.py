"""Certify a model: the certificate that fits its data, the controls, and the report's two files."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor

from ..checks import check_integer
from ..data.arrays import ArrayData, ShardedData
from ..data.labels import labels_for, load_labelled_data
from ..data.load import load_data
from ..diffusion.classes import Classes
from ..diffusion.noise import INDICES, Noise
from ..diffusion.posterior import Posterior
from ..errors import DataError, InvalidArgumentError
from ..mixtures.law import GaussianMixture
from ..sampler import Sampler
from .between_seeds import spread_by_class, variety
from .coverage import HELDOUT_PAIRS, HELDOUT_TIMES, heldout_certificate
from .features import Features, bundled_classifier, load_features
from .kernel import CONTROL_PAIRS, PAIRS, control_certificates, kernel_certificate
from .plot import Clouds, Gallery, blank_page, clouds, gallery, write_page
from .report import Report, report_files

__all__ = ["certify_model", "report_on"]


def certify_model(
    model: str | Path,
    data: str | None = None,
    *,
    out: Path,
    pairs: int | None = None,
    mean_flow_steps: int | None = None,
    labelled: bool = False,
    features: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Report:
    """Certify a model against a mixture's exact posterior, or on held-out data, and write the report.

    ``labelled`` gives a model with classes the labels of the held-out data: p(x_0 | x_t, c) is then what is tested.
    ``features`` are of a classifier, by name or file, along whose directions coverage is shown on held-out images; by
    default of the bundled one that sees images of that shape, if there is one.
    The report goes to ``out``.json and ``out``.png. Raises :class:`InvalidArgumentError` where there can be
    no verdict: too few pairs, data or a classifier of another shape, draws that are NaN or ignore their key.
    Then no file is written.
    """
    as_json, as_page = report_files(out, ".json", ".png")
    blank_page()  # a missing extra shows before any work
    sampler = Sampler.from_pretrained(model)
    report, panel = report_on(sampler, data, pairs, mean_flow_steps, labelled, seed, progress, features=features)
    write_page(report, panel, as_page)
    report.write_json(as_json)
    return report


def report_on(
    sampler: Sampler,
    data: str | None,
    pairs: int | None,
    mean_flow_steps: int | None,
    labelled: bool,
    seed: int,
    progress: bool,
    *,
    features: str | None = None,
    controlled: bool = True,
) -> tuple[Report, Clouds | Gallery | None]:
    """The report of a sampler, and what its page shows beside it; without controls where the verdict is another's."""
    if pairs is not None:
        check_integer("pairs", pairs, 1)
    mean_flow_steps = _flow_steps(sampler, mean_flow_steps)
    source = _source(sampler, data, labelled)
    if isinstance(source, GaussianMixture):
        if features is not None:
            raise InvalidArgumentError(f"features: are of held-out images, and {source.name} is a mixture")
        return _against_mixture(sampler, source, pairs, mean_flow_steps, seed, progress, controlled)
    if isinstance(source, ShardedData):
        raise InvalidArgumentError(f"{source.name} holds latents: certify on the held-out images themselves")
    return _on_held_out(sampler, source, pairs, mean_flow_steps, features, seed, progress)


def _flow_steps(sampler: Sampler, asked: int | None) -> int:
    """M, if it is enough that a certificate judges the model and not the steps of its flow."""
    steps, least = sampler.spec.flow_steps(asked), sampler.spec.objective.least_flow_steps
    if steps < least:
        raise InvalidArgumentError(
            f"mean_flow_steps = {steps}: a pretrained denoiser draws by a flow whose own error would be judged; "
            f"give at least {least}"
        )
    return steps


def _source(sampler: Sampler, data: str | None, labelled: bool) -> ArrayData | ShardedData | GaussianMixture:
    """What to certify on: ``data``, or else what the model was trained on, which must have a test split."""
    spec = sampler.spec
    if labelled and spec.classes is None:
        raise InvalidArgumentError(f"labelled: {spec.name} has no classes, it was trained without")
    load, trained_on = load_labelled_data if labelled else load_data, str(spec.training.get("data", spec.name))
    if data is not None:
        return load(data, split="test")
    try:
        source = load(trained_on, split="test")
    except DataError as error:
        where = f"{error}. The model was trained on {trained_on}: say where held-out data lie with --data"
        raise DataError(where) from error
    if isinstance(source, ArrayData) and _trained_on(source, trained_on):
        raise InvalidArgumentError(
            f"{source.name} has no test split and the model was trained on it: give held-out data with --data"
        )
    return source


def _against_mixture(
    sampler: Sampler,
    mixture: GaussianMixture,
    pairs: int | None,
    mean_flow_steps: int,
    seed: int,
    progress: bool,
    controlled: bool,
) -> tuple[Report, Clouds]:
    _same_shape(sampler, mixture.name, mixture.shape)
    if sampler.spec.codec != mixture.codec:
        raise InvalidArgumentError(
            f"{sampler.spec.name} standardises its data, and {mixture.name} is not: certify it on held-out data"
        )
    schedule, n = sampler.spec.schedule, PAIRS if pairs is None else pairs
    posterior = _posterior(sampler, mean_flow_steps)
    certificate = kernel_certificate(posterior, mixture, schedule, seed=seed, pairs=n, progress=progress)
    few = min(n, CONTROL_PAIRS)
    wrong = control_certificates(mixture, schedule, seed=seed, pairs=few, progress=progress) if controlled else {}
    report = Report(sampler.spec.name, mixture.name, mean_flow_steps, str(sampler.device), certificate, wrong)
    return report, clouds(posterior, mixture, schedule, seed=seed)


def _on_held_out(
    sampler: Sampler,
    data: ArrayData,
    pairs: int | None,
    mean_flow_steps: int,
    features: str | None,
    seed: int,
    progress: bool,
) -> tuple[Report, Gallery | None]:
    spec = sampler.spec
    _same_shape(sampler, data.name, data.shape)
    seen, notes = _features(features, data.shape)
    n = min(len(data), HELDOUT_PAIRS if pairs is None else pairs)
    rows = data.some_rows(n, seed)
    x_0 = spec.codec.encode(data[rows])
    labels = None if data.labels is None or spec.classes is None else labels_for(data, spec.classes)[rows]
    posterior = _posterior(sampler, mean_flow_steps, labels)
    classes = _rows_by_class(labels, spec.classes)
    certificate = heldout_certificate(
        posterior,
        x_0,
        spec.schedule,
        spec.sigma_data,
        seed=seed,
        classes=classes,
        features=None if seen is None else lambda x: seen(spec.codec.decode(x)),
        progress=progress,
    )
    spread = spread_by_class(posterior, x_0, spec.schedule, classes, seed=seed) if classes else {}
    name = data.name if labels is None else f"{data.name}, given its labels"
    drawn = sampler.sample(n, inference_steps=1, mean_flow_steps=mean_flow_steps, labels=labels, seed=seed).cpu()
    varied = variety(data[rows], drawn)
    report = Report(spec.name, name, mean_flow_steps, str(sampler.device), certificate, {}, varied, spread, notes)
    images = len(spec.shape) == 3 and spec.shape[0] in (1, 3)
    panel = gallery(posterior, x_0, spec.schedule, HELDOUT_TIMES, seed=seed) if images else None
    return report, panel


def _features(name: str | None, shape: tuple[int, ...]) -> tuple[Features | None, tuple[str, ...]]:
    """Features of images of ``shape``, or, where no bundled classifier sees any, the line that says so."""
    if name is None and bundled_classifier(shape) is None:
        if len(shape) != 3:
            return None, ()
        size = "x".join(map(str, shape))
        return None, (f"No coverage in features: no bundled classifier sees {size} images; give one by --features.",)
    return load_features(name, shape), ()


def _rows_by_class(labels: Int[Tensor, " n"] | None, classes: Classes | None) -> dict[str, Int[Tensor, " k"]]:
    """The rows of each class that has any, by its name or number."""
    if labels is None or classes is None:
        return {}
    rows = {classes.name(c): (labels == c).nonzero().flatten() for c in range(classes.count)}
    return {name: of for name, of in rows.items() if len(of)}


def _trained_on(source: ArrayData, name: str) -> bool:
    train = load_data(name, split="train")
    return isinstance(train, ArrayData) and train.equals(source)


def _posterior(sampler: Sampler, mean_flow_steps: int, labels: Int[Tensor, " n"] | None = None) -> Posterior:
    """The model's posterior on its own device, for states and keys on the CPU; of the ``labels`` of samples 0 to n."""
    sampler.spec.check_steps(1, mean_flow_steps)
    inner, device = sampler.spec.build_posterior(sampler.network, mean_flow_steps), sampler.device

    def posterior(x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: Noise, /) -> Float[Tensor, "b *d"]:
        if labels is not None:
            noise = noise.labelled(labels[noise.indices % INDICES])
        return inner(x_t.to(device), t.to(device), noise.to(device)).cpu()

    return posterior


def _same_shape(sampler: Sampler, name: str, shape: tuple[int, ...]) -> None:
    drawn = sampler.spec.codec.decoded_shape(sampler.spec.shape)
    if drawn != shape:
        raise InvalidArgumentError(
            f"{sampler.spec.name} draws samples of shape {list(drawn)}, "
            f"{name} holds {list(shape)}: give the data that the model was trained on with --data"
        )
