"""Conversion and parsing of typed values."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_jax.config.values import check, coerce, parse
from cv_jax.errors import InputError

OPTIONAL = float | None
SIZE = int | tuple[int, int]


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("1e3", int, 1000),
        ("-7", int, -7),
        ("1e-3", float, 0.001),
        ("3", float, 3.0),
        ("inf", float, float("inf")),
        ("true", bool, True),
        ("False", bool, False),
        ("none", OPTIONAL, None),
        ("None", OPTIONAL, None),
        ("0.5", OPTIONAL, 0.5),
        ("relu", str, "relu"),
        ("7", str, "7"),
        ("none", str, "none"),
        ("a,b", str, "a,b"),
        ("3,4", tuple[int, ...], (3, 4)),
        ("(3, 4)", tuple[int, ...], (3, 4)),
        ("[3,4]", tuple[int, ...], (3, 4)),
        ("3", tuple[int, ...], (3,)),
        ("1e3,2", tuple[int, ...], (1000, 2)),
        ("()", tuple[int, ...], ()),
        ("a,b", tuple[str, ...], ("a", "b")),
        ("('a{1,2}',)", tuple[str, ...], ("a{1,2}",)),
        ("32", SIZE, 32),
        ("32,48", SIZE, (32, 48)),
        ("32x48", SIZE, (32, 48)),
        ("", tuple[int, ...], ()),
        (" ", tuple[str, ...], ()),
        ("a,", tuple[str, ...], ("a",)),
        ("x{1,2}: lr=0", tuple[str, ...], ("x{1,2}: lr=0",)),
        ("x{1,2}: lr=0,y: lr=2", tuple[str, ...], ("x{1,2}: lr=0", "y: lr=2")),
        ("(a|b)/.*: lr=0,(c|d): lr=2", tuple[str, ...], ("(a|b)/.*: lr=0", "(c|d): lr=2")),
        ("[(,]x: lr=0,y: lr=2", tuple[str, ...], ("[(,]x: lr=0", "y: lr=2")),
        ("x\\,\\(y: lr=0,z: lr=2", tuple[str, ...], ("x\\,\\(y: lr=0", "z: lr=2")),
        ("(a: lr=0,b: lr=2)", tuple[str, ...], ("a: lr=0", "b: lr=2")),
        ("(" * 3000 + "a,b" + ")" * 3000, tuple[str, ...], ("(" * 3000 + "a,b" + ")" * 3000,)),
        ("a,b", str | None, "a,b"),
    ],
)
def test_text_is_parsed_to_the_type_of_the_hint(text, hint, value):
    read = parse(text, hint)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1.5", int),
        ("nan", int),
        ("inf", int),
        ("true", int),
        ("True", float),
        ("1", bool),
        ("x", float),
        ("none", int),
        ("1,2,3", SIZE),
        ("1,x", tuple[int, ...]),
        (",", tuple[str, ...]),
        (",a", tuple[str, ...]),
        ("a,,b", tuple[str, ...]),
        ("32x48", tuple[int, ...]),
        ("3x", SIZE),
        ("nan", float),
        ("1e400", int),
        (str(2**63), int),
        ("9" * 5000, int),
        ("a\0b", str),
        ("a\0b,c", tuple[str, ...]),
        ("__import__('os').getcwd()", int),
    ],
)
def test_text_that_does_not_fit_the_hint_gives_a_one_line_error(text, hint):
    with pytest.raises(InputError, match="config.x: ") as caught:
        check(text, hint, "config.x", parsing=True)
    assert "\n" not in str(caught.value)


INT64 = st.integers(-(2**63), 2**63 - 1)


@given(INT64)
def test_integers_survive_a_round_trip(value):
    assert parse(str(value), int) == value


@given(st.floats(allow_nan=False))
def test_floats_survive_a_round_trip(value):
    assert parse(repr(value), float) == value


@given(st.lists(INT64, min_size=1))
def test_lists_survive_a_round_trip(values):
    assert parse(",".join(map(str, values)), tuple[int, ...]) == tuple(values)


@given(st.text())
def test_any_text_is_a_string_and_otherwise_an_int_or_an_error(text):
    if "\0" not in text:
        assert parse(text, str) == text
    with contextlib.suppress(TypeError):
        assert isinstance(parse(text, int), int)


def test_negative_zero_is_zero():
    assert str(parse("-0.0", float)) == str(coerce(-0.0, float)) == "0.0"


def test_nothing_is_rounded():
    with pytest.raises(TypeError):
        coerce(2.5, int)
    assert coerce(2.0, int) == 2
