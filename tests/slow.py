"""Parameters of which `make test` runs a few and `make test-all` runs all."""

import pytest


def slow_except(cases, *quick, long=False):
    """The cases for `pytest.mark.parametrize`, all except those named `quick` marked slow.

    The name of a case is its attribute `name`, else its text. With `long` they are long, too.
    """
    marks = [pytest.mark.slow, pytest.mark.long] if long else [pytest.mark.slow]
    names = [str(getattr(case, "name", case)) for case in cases]
    missing = set(quick) - set(names)
    assert not missing, missing
    return [
        case if name in quick else pytest.param(case, marks=marks)
        for case, name in zip(cases, names, strict=True)
    ]
