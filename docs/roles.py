"""For mkdocstrings: the docstrings' roles, such as ``:class:`Network` ``, as plain code."""

from __future__ import annotations

import re
from typing import Any

import griffe  # pyright: ignore[reportMissingImports]

ROLE = re.compile(r":(?:class|meth|mod|func|attr):`~?([^`]+)`")


class Roles(griffe.Extension):  # pyright: ignore[reportUntypedBaseClass]
    """Rewrites each docstring when it is collected."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Called by griffe with every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
