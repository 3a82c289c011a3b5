"""What the certificate's resolution does to the coverage of single pixels, on held-out digits.

    python benchmarks/resolution.py --data MNIST_DIR [--model MODEL] [--digits 256] [--out resolution.json]

90 % intervals of 19 draws, at full resolution and at a tenth of c_out, where the truth is the digit itself, a twentieth
draw of the model's own, that draw with its whites three of 255 levels darker, and that draw beside draws that are too
narrow or too wide. Exact draws cover 0.9, and miss 0.05 of the truths on either side.
"""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table
from scoring import DRAWS, Row, digit_options, held_out, write_rows
from torch import Tensor

from stmd_sdk import Noise, Sampler
from stmd_sdk.diffusion.target import ResidualTarget
from stmd_sdk.evaluation import JointDraws, joint_draws
from stmd_sdk.evaluation.calibration import at_resolution, interval_coverage, lively, ranks
from stmd_sdk.files import check_writable

TIMES = 0.03, 0.12, 0.3, 0.5, 0.8
WIDTHS = 0.9, 0.95, 1.05, 1.1
DARKER = 1 - 2 * 3 / 255


def coverages(joint: JointDraws, scale: float, noise: Noise) -> Row:
    """Of the pixels that are not constant: the misses below and above, the coverage, and that at a resolution."""
    alive = lively(joint, scale)
    full, seen = (
        ranks(one.x_0, one.draws, noise.fold(0)) for one in (joint, at_resolution(joint, scale, noise.fold(1)))
    )
    covered = [interval_coverage(one.flatten(1), DRAWS, mask=alive.flatten(1)) for one in (full, seen)]
    return {
        "below": float((full[alive] == 0).double().mean()),
        "above": float((full[alive] == DRAWS).double().mean()),
        "coverage": covered[0].value,
        "at_resolution": covered[1].value,
        "error": covered[1].error,
    }


def cases(joint: JointDraws) -> dict[str, tuple[Tensor, Tensor]]:
    """Truths and 19 draws by what they are, of pairs with 20 draws."""
    own, draws = joint.draws[DRAWS], joint.draws[:DRAWS]
    middle = joint.draws.mean(dim=0)
    found = {"the digit": (joint.x_0, draws), "a draw": (own, draws), "a draw, darker": (own.clamp(max=DARKER), draws)}
    return found | {f"a draw, widths x {by:g}": (own, middle + by * (draws - middle)) for by in WIDTHS}


def main() -> None:
    options = digit_options(__doc__, 256, "resolution.json").parse_args()
    check_writable(options.out)
    sampler = Sampler.from_pretrained(options.model, device="cpu")
    spec, numbers = sampler.spec, range(options.first, options.first + options.digits)
    x = held_out(options.data, sampler, options.model, numbers)
    posterior, key = spec.build_posterior(sampler.network), Noise.of(options.seed, len(x))
    rows, shown = list[Row](), Table("t", "truth", "below", "above", "coverage", "at a tenth of c_out")
    for k, t in enumerate(TIMES):
        joint = joint_draws(posterior, spec.schedule, x, t, DRAWS + 1, key.fold(k).fold(0))
        _, c_out = ResidualTarget(spec.schedule, spec.sigma_data).coefficients(torch.tensor([t]))
        for name, (truth, draws) in cases(joint).items():
            found = coverages(JointDraws(truth, joint.x_t, t, draws), float(c_out), key.fold(k).fold(1))
            rows.append({"model": options.model, "t": t, "digits": len(x), "draws": DRAWS, "seed": options.seed,
                         "truth": name, **found})  # fmt: skip
            shown.add_row(f"{t:g}", name, *(f"{found[of]:.3f}" for of in ("below", "above", "coverage")),
                          f"{found['at_resolution']:.3f} ± {found['error']:.3f}")  # fmt: skip
    write_rows(options.out, rows)
    Console(width=120).print(shown)


if __name__ == "__main__":
    main()
