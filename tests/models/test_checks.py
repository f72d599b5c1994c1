"""Checks of field values: messages and hints."""

import pytest

from cv_jax.models import checks


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: checks.one_of("stem", "cifra", ("imagenet", "cifar")), "; did you mean cifar"),
        (lambda: checks.one_of("version", 3, (1, 2)), "unknown version 3; allowed: 1, 2$"),
        (lambda: checks.one_of("pool", None, ("cls",)), "unknown pool None; allowed: cls$"),
        (lambda: checks.rate("rate", -0.1), r"rate must lie in \[0, 1\), got -0.1"),
        (lambda: checks.positive("widths", (8, 0)), "widths must be at least 1, got 8, 0"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_allowed_values_pass():
    checks.one_of("stem", "cifar", iter(("imagenet", "cifar")))
    checks.rate("rate", 0)
    checks.positive("widths", [1])
