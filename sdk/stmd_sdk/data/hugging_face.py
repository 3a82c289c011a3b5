"""Columns of pictures and labels of the data sets that the package ``datasets`` loads, whole or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError, requires_extra
from ..files import brief

__all__ = ["open_column", "open_labels"]


def open_column(
    source: str, split: str, *, streaming: bool = False, first: int = 0
) -> tuple[int | None, Iterator[tuple[str, bytes]]]:
    """How many rows ``hf:ID[#CONFIG][:column]`` has (None if streamed), and the name and a picture's file of each.

    ``column`` is the first one of images by default. The files are not decoded here, as pictures are read in one place.
    Raises :class:`DataError` for what cannot be loaded, and for rows without a picture; :class:`MissingExtraError`
    without the package.
    """
    datasets, failures = _package()
    rows, column = _opened(source, split, streaming), _parsed(source)[2]
    features = rows.features or {}
    pictures = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if (column and column not in pictures) or not pictures:
        asked = f" called {column}; it has" if column else "; its columns are"
        raise DataError(f"{source}: has no column of images{asked} {', '.join(pictures or features) or 'none'}")
    column = column or pictures[0]
    rows = rows.cast_column(column, datasets.Image(decode=False)).skip(first)
    return None if streaming else len(rows), _rows(source, rows, column, first, failures)


def open_labels(source: str, split: str) -> tuple[list[int], tuple[str, ...]]:
    """The labels of all rows, and what their classes are called: the first column of class labels.

    Raises as :func:`open_column` does, and :class:`DataError` where no column holds class labels or one is missing.
    """
    datasets, _ = _package()
    rows = _opened(source, split, streaming=False)
    features: dict[str, Any] = rows.features or {}
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if not labels:
        raise DataError(f"{source}: has no column of class labels; its columns are {', '.join(features) or 'none'}")
    return list(rows[labels[0]]), tuple(features[labels[0]].names)


def _package() -> tuple[Any, tuple[type[Exception], ...]]:
    """The package, and what it raises."""
    with requires_extra("datasets"):
        import datasets  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
        from datasets.exceptions import DatasetsError  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    return datasets, (OSError, ValueError, TypeError, DatasetsError)


def _opened(source: str, split: str, streaming: bool) -> Any:
    """The rows of a split."""
    datasets, failures = _package()
    identifier, configuration, _ = _parsed(source)
    if not identifier:
        raise DataError(f"{source}: names no data set; say hf:ID, hf:ID#CONFIG or hf:ID:column")
    try:
        return datasets.load_dataset(identifier, configuration, split=split, streaming=streaming)
    except failures as error:
        several = "; name one as hf:ID#CONFIG" if "Config name is missing" in str(error) else ""
        raise DataError(f"{source}: cannot load its {split} split ({_line(error)}){several}") from error


def _rows(
    source: str, rows: Any, column: str, first: int, failures: tuple[type[Exception], ...]
) -> Iterator[tuple[str, bytes]]:
    i = first
    try:
        for row in rows:
            yield f"{source}, row {i}", _content(f"{source}, row {i}", row[column])
            i += 1
    except failures as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{source}, row {i}: cannot be read ({_line(error)})") from error


def _content(name: str, value: Any) -> bytes:
    """The bytes of a picture's file: in the row, or where its path leads, here or elsewhere."""
    match value:
        case {"bytes": bytes(content)}:
            return content
        case {"path": str(path)} if path:
            import fsspec  # noqa: PLC0415  comes with datasets

            fetched: Any = fsspec.open(path, "rb")
            with fetched as file:
                return file.read()
        case _:
            raise DataError(f"{name}: holds no picture")


def _line(error: Exception) -> str:
    return brief(" ".join(str(error).split()))


def _parsed(source: str) -> tuple[str, str | None, str]:
    """(ID or path, configuration, column); a path that exists may hold colons."""
    text, column = source.removeprefix("hf:"), ""
    before, colon, after = text.rpartition(":")
    if colon and not Path(text).exists() and not set("/\\") & set(after):
        text, column = before, after
    identifier, _, configuration = text.partition("#")
    return identifier, configuration or None, column
