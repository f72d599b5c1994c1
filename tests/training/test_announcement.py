"""What a run says about itself at its start."""

import pytest

from cv_jax import models
from cv_jax.models import attention
from cv_jax.training import loop


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("vit_ti16", {}, ""),
        ("lenet5", {}, ""),
        ("vit_ti16", {"attention_implementation": "auto"}, ", xla attention"),
        (
            "mae_vit_b16",
            {"attention_implementation": "auto", "dtype": "bfloat16"},
            ", cudnn attention",
        ),
        (
            "vit_ti16",
            {"attention_implementation": "auto", "dtype": "bfloat16", "attention_weights": True},
            ", xla attention",
        ),
    ],
)
def test_an_automatic_choice_of_attention_is_named(monkeypatch, name, fields, said):
    monkeypatch.setattr(attention, "_on_nvidia", lambda: True)
    assert loop._attention(models.create(name, **fields)) == said
