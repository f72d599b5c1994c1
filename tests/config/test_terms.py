"""Strings of terms: values are literals, separators inside quotes belong to the string."""

import pytest

from cv_jax.config.terms import MOST, Term, parse_terms
from cv_jax.errors import InputError


def test_names_arguments_and_text():
    assert parse_terms("flip | crop(4, mode='edge')|size((3, -4), p=0.5)", "config.augment") == [
        Term("flip", [], {}, "flip"),
        Term("crop", [4], {"mode": "edge"}, "crop(4, mode='edge')"),
        Term("size", [(3, -4)], {"p": 0.5}, "size((3, -4), p=0.5)"),
    ]


@pytest.mark.parametrize("string", ["", "  ", "|", " | |"])
def test_empty_terms_are_ignored(string):
    assert parse_terms(string, "config.augment") == []
    assert [term.name for term in parse_terms(f"a|{string}|b", "config.augment")] == ["a", "b"]


@pytest.mark.parametrize("text", ["a|b", "'|", '"|', "\\|", "(|)"])
def test_a_separator_inside_quotes_is_text(text):
    (term,) = parse_terms(f"f({text!r}, k={text!r})", "config.augment")
    assert (term.args, term.kwargs) == ([text], {"k": text})


@pytest.mark.parametrize(
    "string",
    [
        "f(",
        "f)",
        "f(x)",
        "f(1 + g())",
        "f(**{'a': 1})",
        "f.g(1)",
        "3",
        "f(1)(2)",
        "__import__('os').remove('x')",
        "f(a=1, a=2)",
        "f('",
        "f" + "(" * 5000,
    ],
)
def test_anything_but_literals_gives_one_line(string):
    with pytest.raises(InputError) as caught:
        parse_terms(string, "config.augment")
    assert str(caught.value).startswith("config.augment: ")
    assert "is not of the form name or name(literal, key=literal)" in str(caught.value)


def test_the_number_of_terms_is_limited():
    assert len(parse_terms("|".join(["f"] * MOST), "config.augment")) == MOST
    with pytest.raises(InputError, match=f"config.augment: 101 terms; at most {MOST} are possible"):
        parse_terms("|".join(["f"] * (MOST + 1)), "config.augment")
