"""Strict reading: what is read back is what was written, and every error names its key."""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Literal

import pytest

from stmd_sdk import CheckpointError, DataError, InvalidArgumentError
from stmd_sdk.config import read_config, read_json, read_toml


@dataclass(frozen=True)
class Circle:
    radius: float
    kind: Literal["circle"] = "circle"

    def __post_init__(self):
        if not self.radius > 0:
            raise InvalidArgumentError("radius: must be positive")


@dataclass(frozen=True)
class Square:
    side: int
    kind: Literal["square"] = "square"


@dataclass(frozen=True)
class Drawing:
    name: str
    shape: Circle | Square
    sizes: tuple[int, ...] = ()
    closed: bool = True
    colour: Literal["red", "blue"] = "red"
    limit: float | None = None
    preset: str | Circle = "none"
    facts: dict[str, str | int | float] = field(default_factory=dict)


FULL = Drawing(
    "a",
    Square(3),
    (1, 2),
    False,
    "blue",
    0.5,
    Circle(2.0),
    {"text": "1", "count": 1, "share": 1.0, "rate": math.inf},
)


@pytest.mark.parametrize("drawing", [FULL, Drawing("b", Circle(0.25))])
def test_reading_inverts_asdict(drawing):
    read = read_config(Drawing, asdict(drawing))
    assert read == drawing
    assert [type(fact) for fact in read.facts.values()] == [type(fact) for fact in drawing.facts.values()]


def test_lists_become_tuples_and_whole_numbers_floats():
    read = read_config(Drawing, {"name": "c", "shape": {"kind": "circle", "radius": 2}, "sizes": [1, 2]})
    assert read.sizes == (1, 2)
    assert (read.shape.radius, type(read.shape.radius)) == (2.0, float)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"nmae": 1}, r"^nmae: unknown key; known are name, shape, sizes"),
        (
            {"shape": {"kind": "square", "side": 1, "top": 2}},
            r"^shape\.top: unknown key; known are side, kind",
        ),
        ({"shape": {"kind": "square"}}, r"^shape\.side: missing"),
        ({"shape": {"kind": "square", "side": 1.0}}, r"^shape\.side: expected int, got 1\.0"),
        ({"shape": {"kind": "square", "side": True}}, r"^shape\.side: expected int, got True"),
        ({"shape": {"kind": "circle", "radius": "2"}}, r"^shape\.radius: expected float, got '2'"),
        ({"shape": {"kind": "circle", "radius": False}}, r"^shape\.radius: expected float, got False"),
        ({"shape": {"kind": "circle", "radius": -1.0}}, r"^shape: radius: must be positive"),
        ({"shape": {"kind": "oval"}}, r"^shape\.kind: must be one of 'circle', 'square', got 'oval'"),
        ({"shape": {"kind": ["circle"]}}, r"^shape\.kind: must be one of"),
        ({"shape": {"side": 1}}, r"^shape\.kind: must be one of 'circle', 'square', got None"),
        ({"shape": [1]}, r"^shape: expected a table, got \[1\]"),
        ({"shape": None}, r"^shape: expected a table, got None"),
        ({"sizes": 3}, r"^sizes: expected a list, got 3"),
        ({"sizes": "12"}, r"^sizes: expected a list, got '12'"),
        ({"sizes": [1, "2"]}, r"^sizes\[1\]: expected int, got '2'"),
        ({"closed": 1}, r"^closed: expected bool, got 1"),
        ({"colour": "green"}, r"^colour: must be one of 'red', 'blue', got 'green'"),
        ({"colour": ["red"]}, r"^colour: must be one of"),
        ({"limit": "low"}, r"^limit: expected float, got 'low'"),
        ({"preset": 3}, r"^preset: expected a table"),
        ({"preset": {"kind": "square", "side": 1}}, r"^preset\.kind: must be one of 'circle'"),
        ({"facts": {"a": [1]}}, r"^facts\.a: expected str, got \[1\]; or facts\.a: expected int"),
        ({"facts": 1}, r"^facts: expected a table, got 1"),
        ({"name": None}, r"^name: expected str, got None"),
    ],
)
def test_errors_begin_with_the_key(change, says):
    with pytest.raises(InvalidArgumentError, match=says):
        read_config(Drawing, asdict(FULL) | change)


def test_a_missing_key_is_named():
    with pytest.raises(InvalidArgumentError, match=r"^shape: missing"):
        read_config(Drawing, {"name": "a"})


@pytest.mark.parametrize("values", [None, 3, "name", ["name"]])
def test_what_is_no_table_is_refused(values):
    with pytest.raises(InvalidArgumentError, match=r"^Drawing: expected a table"):
        read_config(Drawing, values)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shape": {"kind": "circle", "radius": 10**400}}, r"^shape\.radius: .* too large"),
        ({"limit": 10**6000}, r"^limit: a value of type int is too large"),
        ({"sizes": "y" * 70_000}, r"^sizes: expected a list"),
        ({"k" * 70_000: 1}, r"^kkk.* unknown key"),
    ],
)
def test_hostile_values_are_refused_in_one_line(change, says):
    with pytest.raises(InvalidArgumentError, match=says) as caught:
        read_config(Drawing, asdict(FULL) | change)
    assert len(str(caught.value)) < 500


def test_a_check_of_a_class_s_own_that_breaks_is_one_of_ours():
    @dataclass(frozen=True)
    class Root:
        of: int

        def __post_init__(self):
            math.sqrt(self.of)

    for value in (-1, 10**400):  # ValueError, OverflowError
        with pytest.raises(InvalidArgumentError):
            read_config(Root, {"of": value})


@pytest.mark.parametrize(
    "text", ['{"größe": [1, 2.5, "\\u00e9", "\\ud83d\\ude00", true, null]}', '[{"a": 1}, {"a": 2}]']
)
def test_json_is_utf8_with_or_without_a_byte_order_mark(text):
    value = json.loads(text)
    for given in (text, "\ufeff" + text, text.encode(), text.encode("utf-8-sig")):
        assert read_json(given, "x", DataError) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{'a': 1}",
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a": ' + "9" * 5_000 + "}",
        '{"a": 1e400}',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1, "b": 2, "a": 1}',
        '{"a": "\\ud800"}',
        '{"\\udfff": 1}',
        b'{"a": "\xff"}',
        '{"a": 1}'.encode("utf-16"),
    ],
)
def test_what_is_no_json_is_one_line_of_the_caller_s_error(text):
    for error in (DataError, CheckpointError):
        with pytest.raises(error, match=r"^x\.json: not JSON that can be read \(") as caught:
            read_json(text, "x.json", error)
        assert len(str(caught.value)) < 500
        str(caught.value).encode()


def test_toml_is_utf8_with_or_without_a_byte_order_mark():
    text = 'name = "größe"'
    for given in (text, "\ufeff" + text, text.encode(), text.encode("utf-8-sig")):
        assert read_toml(given, "x", DataError) == {"name": "größe"}


@pytest.mark.parametrize(
    "text", ["a = ", "a = 1\na = 2", "a = " + "[" * 100_000, "a = " + "9" * 5_000, b"a = '\xff'", 'a = "\\ud800"']
)
def test_what_is_no_toml_is_one_line_of_the_caller_s_error(text):
    with pytest.raises(DataError, match=r"^x\.toml: not TOML that can be read \(") as caught:
        read_toml(text, "x.toml", DataError)
    assert len(str(caught.value)) < 500
