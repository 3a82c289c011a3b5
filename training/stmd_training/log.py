"""The log of a run: one JSON object a line, and TensorBoard where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, final

from stmd_sdk.files import written_whole

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["RunLog"]


@final
class RunLog:
    """``log.jsonl`` in the run's folder; lines behind the step that a run resumes from are dropped."""

    def __init__(self, folder: Path, resumed_step: int) -> None:
        path = folder / "log.jsonl"
        kept = _lines_up_to(path, resumed_step)
        with written_whole(path) as temporary:
            temporary.write_text("".join(kept))
        self.file = path.open("a")
        self.board = _tensorboard(folder, resumed_step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log named values of one step."""
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)


def _lines_up_to(path: Path, step: int) -> list[str]:
    if step == 0 or not path.exists():
        return []
    # A killed process may have left half a line at the end.
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
    return [line for line in whole if json.loads(line)["step"] <= step]


def _tensorboard(folder: Path, resumed_step: int) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)
