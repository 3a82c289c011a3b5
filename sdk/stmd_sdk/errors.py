"""Every error that STMD SDK raises on purpose, as one tree.

::

    StmdError
    ├── InvalidArgumentError   (ValueError)    a value that cannot mean anything: shape, dtype, range, NaN
    ├── DeviceError            (RuntimeError)  a device that is asked for and is not there
    ├── MissingExtraError      (ImportError)   an optional package that is not installed; names the pip line
    ├── DataError              (ValueError)    a data set that is absent, damaged, or does not fit the recipe
    ├── OutputError            (OSError)       a file that cannot be written
    ├── CheckpointError        (ValueError)    a model file that is absent, damaged, foreign or too new
    ├── TrainingError          (RuntimeError)  a run that cannot go on: NaN, another recipe on resume
    └── InferenceError         (RuntimeError)  a chain or an ensemble that cannot go on: it never accepts, NaN

and two warnings, each a UserWarning: InferenceWarning, of a result that is valid but rests on few effective samples or
on a measurement that seems to be on another scale, and DataWarning, of data that will do but lack something.

Each also derives from the built-in that a caller would expect, so ``except ValueError`` goes on working.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType

__all__ = [
    "CheckpointError",
    "DataError",
    "DataWarning",
    "DeviceError",
    "InferenceError",
    "InferenceWarning",
    "InvalidArgumentError",
    "MissingExtraError",
    "OutputError",
    "StmdError",
    "TrainingError",
    "check_version",
    "first_line",
    "out_of_memory",
    "requires_extra",
]


class StmdError(Exception):
    """The root: ``except StmdError`` catches every error of this project."""


class InvalidArgumentError(StmdError, ValueError):
    """An argument whose value cannot mean anything here."""


class DeviceError(StmdError, RuntimeError):
    """A device that was asked for and is not available. There is no silent fallback."""


class MissingExtraError(StmdError, ImportError):
    """An optional package is not installed; the message names the pip line that installs it."""


class DataError(StmdError, ValueError):
    """A data set that is absent, damaged, or does not fit what it is used for."""


class OutputError(StmdError, OSError):
    """A file or folder that cannot be written."""


class CheckpointError(StmdError, ValueError):
    """A model file that is absent, damaged, foreign, or written by a newer version."""


class TrainingError(StmdError, RuntimeError):
    """A training run that cannot start or go on."""


class InferenceError(StmdError, RuntimeError):
    """A Markov chain or an ensemble that cannot go on."""


class InferenceWarning(UserWarning):
    """Samples that are valid but rest on few effective ones, or on a measurement of doubtful scale."""


class DataWarning(UserWarning):
    """Data that can be used but lack something that was asked for."""


@contextmanager
def requires_extra(extra: str) -> Generator[None, None, None]:
    """Turn an ImportError of the guarded imports into one that names the pip line of ``extra``."""
    try:
        yield
    except ImportError as error:
        package = error.name or "a package"
        raise MissingExtraError(
            f"{package} is not installed; it comes with: pip install 'stmd-sdk[{extra}]'"
        ) from error


def check_version(module: ModuleType, least: tuple[int, int], extra: str) -> None:
    """Raise :class:`MissingExtraError` for a package older than ``least``, which would fail late, in its own words."""
    version = str(getattr(module, "__version__", "of no version"))
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < least:
        lowest = ".".join(map(str, least))
        raise MissingExtraError(
            f"{module.__name__} {version} is older than {lowest}: pip install -U 'stmd-sdk[{extra}]'"
        )


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or the name of its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


NO_MEMORY = "can't allocate memory", "Failed to allocate memory", "Storage size calculation overflowed"


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, in PyTorch, NumPy or ONNX Runtime, which each have an error of their own for it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # PyTorch's, on a GPU; it may be absent here
        or any(phrase in str(error) for phrase in NO_MEMORY)
    )
