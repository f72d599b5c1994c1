"""Values of `--fields` have the types of the model's fields, as in `--config.model.NAME=VALUE`."""

import pytest

from cv_jax import config as configs
from cv_jax.__main__ import main
from cv_jax.commands import option_types
from cv_jax.config.model_fields import parse_fields
from cv_jax.errors import InputError
from cv_jax.interop import saved


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("preact=false", {"preact": False}),
        ("preact=False,zero_init_residual=TRUE", {"preact": False, "zero_init_residual": True}),
        ("stage_sizes=1,2,3,4, groups=2", {"stage_sizes": (1, 2, 3, 4), "groups": 2}),
        ("stage_sizes=(1, 2),widths=[8,16]", {"stage_sizes": (1, 2), "widths": (8, 16)}),
        ("groups=2.0,drop_path_rate=1", {"groups": 2, "drop_path_rate": 1.0}),
        ("axis_name=none,pool=max", {"axis_name": None, "pool": "max"}),
        ("drop_path_rate=1e-1", {"drop_path_rate": 0.1}),
    ],
)
def test_values_are_those_of_config_overrides(text, values, load_config):
    texts = option_types.fields(text)
    found = parse_fields("resnet50", texts, "--fields")
    assert found == values
    assert [type(value) for value in found.values()] == [type(value) for value in values.values()]
    overrides = {f"model.{name}": value for name, value in texts.items()}
    config = load_config("resnet", overrides)
    assert {name: configs.flatten(config)[f"model.{name}"] for name in values} == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preact=0", "--fields: preact: '0' is not true or false"),
        ("preact=flase", "--fields: preact: 'flase' is not true or false"),
        ("preact=", "--fields: preact: '' is not true or false"),
        ("groups=1.5", "--fields: groups: '1.5' is not an integer of 64 bits"),
        ("drop_path_rate=nan", "--fields: drop_path_rate: 'nan' is not a number"),
        ("drop_path_rate=inf", "--fields: drop_path_rate=inf is not finite"),
        ("dtype=float99", "--fields: dtype: 'float99' is not one of float32, bfloat16"),
        ("preakt=true", "--fields: model 'resnet50' has no field 'preakt'; did you mean preact?"),
        ("num_classes=4", "--fields: num_classes is set by --num-classes"),
    ],
)
def test_mistakes_are_one_line(text, message):
    texts = option_types.fields(text)
    with pytest.raises(InputError) as error:
        parse_fields("resnet50", texts, "--fields", {"num_classes": "--num-classes"})
    assert str(error.value) == message


@pytest.mark.parametrize("text", ["a", "=1", "preact", "preact=true,preact=false", ""])
def test_text_of_another_form(text, capsys):
    assert main(["receptive-field", "resnet18", "--fields", text]) == 2
    assert capsys.readouterr().err.startswith("error: argument --fields: ")


def test_false_is_false_in_every_command(tmp_path, capsys):
    """`false` was a string, which counts as true: the net got another order of layers."""

    def printed(*flags):
        assert main(["receptive-field", "resnet18", "--image-size=32", *flags]) == 0
        return capsys.readouterr().out

    assert printed("--fields=preact=false") == printed()
    assert printed("--fields=preact=true") != printed()

    from cv_jax.interop.target import Target, unflatten

    small = dict(stage_sizes=(1,), widths=(4,), stem_width=4)
    target = Target("resnet18", num_classes=2, image_size=32, **small)
    variables = unflatten(target.initial(list(target.shapes), seed=0))
    source, dest = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    fields = {**small, "num_classes": 2}
    saved.write(source, saved.Saved(variables, "resnet18", fields, (32, 32), 3))
    assert main(["convert", str(source), str(dest), "--fields=zero_init_residual=false"]) == 0
    assert saved.read(dest).fields["zero_init_residual"] is False
