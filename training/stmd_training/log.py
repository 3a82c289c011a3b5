"""The log of a run: one JSON object a line, TensorBoard where it is installed, and a bar."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, final

from rich.progress import Progress

from stmd_sdk.files import written_whole
from stmd_sdk.progress import bar_columns

from .recipe import Recipe
from .steps import Step

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["RunLog", "RunProgress"]


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
        with suppress(OSError):  # what could not be written was said
            self.file.close()
        self._shown(lambda board: board.close())

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log named values of one step. A disk that is full ends the log, and not the run."""
        try:
            if not self.file.closed:
                self.file.write(json.dumps({"step": step, **values}) + "\n")
                self.file.flush()
        except OSError as error:
            warnings.warn(f"the log ends at step {step}: {error.strerror or error}", RuntimeWarning, stacklevel=2)
            with suppress(OSError):
                self.file.close()
        for name, value in values.items():
            self._shown(lambda board, name=name, value=value: board.add_scalar(name, value, step))

    def _shown(self, show: Callable[[SummaryWriter], None]) -> None:
        """Do something with TensorBoard, or do without it from now on."""
        if self.board is None:
            return
        try:
            show(self.board)
        except Exception as error:  # of a library that is beside the point
            self.board = None
            _without_tensorboard(error)


def _lines_up_to(path: Path, step: int) -> list[str]:
    """The lines of steps up to ``step``; those that a killed process or a damaged disk left are dropped."""
    if step == 0 or not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    return [line for line in lines if line.endswith("}\n") and _step_of(line) <= step]


def _step_of(line: str) -> float:
    try:
        step: object = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
    return float(step) if isinstance(step, int) else math.inf


def _tensorboard(folder: Path, resumed_step: int) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

        return SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)
    except ImportError:
        return None
    except Exception as error:  # one that is there and broken can raise anything
        _without_tensorboard(error)
        return None


def _without_tensorboard(error: Exception) -> None:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    warnings.warn(f"TensorBoard does not work and is left out: {reason}", RuntimeWarning, stacklevel=4)


@final
class RunProgress:
    """A bar with the loss, the speed and the time left."""

    def __init__(self, recipe: Recipe, done: int, show: bool) -> None:
        columns = bar_columns("loss {task.fields[loss]:.4f}", "{task.fields[speed]:.1f} steps/s")
        self.bar = Progress(*columns, disable=not show)
        self.task = self.bar.add_task(recipe.name, total=recipe.steps, completed=done, loss=float("nan"), speed=0.0)
        self.average, self.done, self.started = float("nan"), done, time.monotonic()

    def __enter__(self) -> Callable[[Step], None]:
        self.bar.start()
        return self.advance

    def __exit__(self, *unused: object) -> None:
        self.bar.stop()

    def advance(self, step: Step) -> None:
        """Show one more step."""
        self.average = step.loss if self.average != self.average else 0.98 * self.average + 0.02 * step.loss
        speed = (step.step - self.done) / max(time.monotonic() - self.started, 1e-9)
        self.bar.update(self.task, completed=step.step, loss=self.average, speed=speed)
