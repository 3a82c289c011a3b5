"""Columns of pictures of the data sets that the package ``datasets`` loads, whole or streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import DataError, requires_extra

__all__ = ["open_column"]

Opening = Callable[[], Image.Image]


def open_column(
    source: str, split: str, *, streaming: bool = False, first: int = 0
) -> tuple[int | None, Iterator[tuple[str, Opening]]]:
    """How many rows ``hf:ID[#CONFIG][:column]`` has (None if streamed), and a name and a picture's opening of each.

    ``column`` is the first one of images by default. Raises :class:`DataError` for what cannot be loaded, and for rows
    without a picture; :class:`MissingExtraError` without the package.
    """
    with requires_extra("datasets"):
        import datasets  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
        from datasets.exceptions import DatasetsError  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    identifier, configuration, column = _parsed(source)
    failures: tuple[type[Exception], ...] = OSError, ValueError, TypeError, DatasetsError
    try:
        rows: Any = datasets.load_dataset(identifier, configuration, split=split, streaming=streaming)
        features = rows.features or {}
    except failures as error:
        raise DataError(f"{source}: cannot load its {split} split ({error})") from error
    pictures = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if (column and column not in pictures) or not pictures:
        asked = f"{column}; " if column else "; "
        raise DataError(f"{source}: has no column of images {asked}it has {', '.join(pictures or features) or 'none'}")
    return None if streaming else len(rows), _rows(source, rows, column or pictures[0], first, failures)


def _rows(
    source: str, rows: Any, column: str, first: int, failures: tuple[type[Exception], ...]
) -> Iterator[tuple[str, Opening]]:
    try:
        for i, row in enumerate(rows.skip(first), start=first):
            if not isinstance(row[column], Image.Image):
                raise DataError(f"{source}, row {i}: holds no picture")
            yield f"{source}, row {i}", lambda picture=row[column]: picture
    except failures as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{source}: cannot be read to its end ({error})") from error


def _parsed(source: str) -> tuple[str, str | None, str]:
    """(ID or path, configuration, column); a path that exists may hold colons."""
    text, column = source.removeprefix("hf:"), ""
    before, colon, after = text.rpartition(":")
    if colon and not Path(text).exists() and not set("/\\") & set(after):
        text, column = before, after
    identifier, _, configuration = text.partition("#")
    return identifier, configuration or None, column
