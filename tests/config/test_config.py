"""Configs: defaults, files, overrides, error messages, digests and differences."""

import itertools
import json
import pathlib
import sys

import ml_collections
import pytest

from cv_jax import config, models
from cv_jax.config.fields import FIELDS
from cv_jax.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parents[2]
VIT = str(ROOT / "configs" / "vit_b16.py")


def test_every_field_has_a_default_of_its_type_a_kind_and_a_meaning():
    for name, value in config.flatten(config.load(VIT)).items():
        if not name.startswith("model."):
            field = FIELDS[name]
            assert field.kind in ("result", "evaluation", "run")
            assert field.meaning
        json.dumps(value)


def test_config_model_has_the_model_fields_except_those_that_the_data_decide():
    fields = config.default(model="vit_s16").model
    expected = {"name", *models.fields("vit_s16")} - {"num_classes", "image_size"}
    assert set(fields) == expected


def test_overrides_are_typed():
    c = config.load(
        VIT,
        {
            "optim.learning_rate": "1e-2",
            "batch_size": "1e2",
            "image_size": "32,64",
            "optim.clip_norm": "none",
            "optim.rules": ".*bias: decay=0,head/.*: lr=2 freeze",
            "model.patch_size": "8",
            "model.pool": "mean",
            "data.dir": "/somewhere",
        },
    )
    assert c.optim.learning_rate == 0.01
    assert c.batch_size == 100
    assert type(c.batch_size) is int
    assert c.image_size == (32, 64)
    assert c.optim.clip_norm is None
    assert c.optim.rules == (".*bias: decay=0", "head/.*: lr=2 freeze")
    assert (c.model.patch_size, c.model.pool, c.data.dir) == (8, "mean", "/somewhere")


def test_the_argument_chooses_dataset_and_model():
    c = config.load(f"{VIT}:cifar10,model=vit_s16")
    assert (c.data.name, c.model.name, c.model.width) == ("cifar10", "vit_s16", 384)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optim.momentu": "1"}, "config.optim.momentu is not a field; did you mean config.optim"),
        ({"optim.lr": "1"}, "did you mean config.optim.learning_rate?"),
        ({"learning_rate": "1"}, "did you mean config.optim.learning_rate?"),
        ({"model.patch": "8"}, "did you mean config.model.patch_size?"),
        ({"batch_size": "1.5"}, "config.batch_size=1.5: '1.5' is not an integer"),
        ({"optim.learning_rate": "fast"}, "'fast' is not a number"),
        ({"optim.nesterov": "2"}, "is not true or false"),
        ({"optim": "3"}, "config.optim is a group; set one of optim.accumulate_steps"),
        ({"model.num_classes": "3"}, "its value comes from the data or config.image_size"),
        ({"model.depth": "deep"}, "config.model.depth=deep: 'deep' is not an integer"),
        ({"total_steps": "-1"}, "config.total_steps=-1 must be at least 0"),
        ({"total_epochs": "none"}, "must be set"),
    ],
)
def test_a_wrong_override_gives_a_one_line_error(overrides, message):
    with pytest.raises(InputError) as caught:
        config.load(VIT, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (f"{ROOT}/configs/vit_b61.py", "does not exist; did you mean"),
        ("nowhere/x.py", "does not exist"),
        (f"{VIT}:digits,modle=vit_s16", "config argument 'modle=vit_s16' is not known"),
        (f"{VIT}:digits,model=vit_b15", "unknown model 'vit_b15'; did you mean vit_b16"),
    ],
)
def test_a_wrong_reference_gives_a_one_line_error(reference, message):
    with pytest.raises(InputError) as caught:
        config.load(reference)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("c.optim.larning_rate = 1.0", "file.py:4: "),
        ("c.larning_rate = 1.0", "file.py:4: "),
        ("c.batch_size = 'many'", "config.batch_size: 'many' is not an integer"),
        ("c.total_steps = 5", "config.total_epochs and config.total_steps are both set"),
        ("1 / 0", "file.py:4: ZeroDivisionError"),
        ("return {}", "must return a config"),
    ],
)
def test_a_mistake_in_a_config_file_gives_a_one_line_error(tmp_path, body, message):
    file = tmp_path / "file.py"
    file.write_text(
        "from cv_jax import config\n"
        "def get_config(arg):\n"
        "    c = config.default()\n"
        f"    {body}\n"
        "    return c\n"
    )
    with pytest.raises(InputError) as caught:
        config.load(str(file))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


HEAD = "from cv_jax import config\n\n\ndef get_config(arg):\n    c = config.default()\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEAD + "    c.optim.larning_rate = 1.0\n",
            ":6: AttributeError: larning_rate is not a field; did you mean learning_rate?",
        ),
        (
            HEAD + "    c.learning_rate = 1.0\n",
            ":6: AttributeError: learning_rate is not a field; "
            "did you mean config.optim.learning_rate?",
        ),
        (
            HEAD + "    c.model.dept = 3\n",
            ":6: AttributeError: dept is not a field; did you mean depth?",
        ),
        (
            HEAD + "    c.optim['lr'] = 1\n",
            ":6: KeyError: lr is not a field; did you mean config.optim.learning_rate?",
        ),
        (
            HEAD + "    c.opt.name = 'sgd'\n",
            ":6: AttributeError: opt is not a field; did you mean optim?",
        ),
        (HEAD + "    {}['it\\'s\\nhere']\n", ":6: KeyError: it's here"),
        (HEAD + "    raise ValueError(\"it's 'one'\")\n", ":6: ValueError: it's 'one'"),
        (HEAD + "    assert c.seed == 1\n", ":6: AssertionError"),
        (HEAD + "    c.seed = sed\n", ":6: NameError: name 'sed' is not defined"),
        (HEAD + "    c.optim = 3\n    return c\n", ": config.optim is a group of fields and takes"),
        (HEAD + "    c.seed = 'x'\n    return c\n", ": config.seed: 'x' is not an integer"),
        (
            "from cv_jax import config\n\n\ndef get_config(arg):\n    config.default(model='x')\n",
            ":5: config.model.name: unknown model 'x'",
        ),
        (
            "import os\nimport nothing_there\n",
            ":2: ModuleNotFoundError: No module named 'nothing_t",
        ),
        ("\n\ndef get_config(arg:\n    pass\n", ":3: SyntaxError: '(' was never closed"),
        ("\n\neval('x = (')\n", ":3: SyntaxError: invalid syntax (<string>, line 1)"),
        ("\n\ndef get_config():\n    pass\n", ":3: TypeError: get_config() takes 0 positional arg"),
        ("\nraise SystemExit\n", ":2: SystemExit"),
        ("x = 1\n", " defines no function get_config(arg)"),
        ("get_config = 3\n", " defines no function get_config(arg)"),
        (HEAD, ": get_config(arg) must return a config, not NoneType"),
    ],
    ids=itertools.count(),
)
def test_a_mistake_names_file_and_line_for_every_form_of_the_path(
    tmp_path, monkeypatch, text, message
):
    (tmp_path / "files").mkdir()
    (tmp_path / "link").symlink_to("files")
    (tmp_path / "files" / "file.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    for path in (
        "files/file.py",
        "link/file.py",
        "files/../link/file.py",
        f"{tmp_path}/files/file.py",
    ):
        with pytest.raises(InputError) as caught:
            config.load(path)
        assert str(caught.value).removeprefix("config file ").startswith(f"{path}{message}")
        assert "\n" not in str(caught.value)
        assert "\\" not in str(caught.value)


def test_a_mistake_in_an_imported_function_names_its_own_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "base_of_test.py").write_text("\ndef get_config(arg):\n    1 / 0\n")
    (tmp_path / "file.py").write_text("from base_of_test import get_config\n")
    with pytest.raises(InputError, match=r"base_of_test\.py:3: ZeroDivisionError"):
        config.load(str(tmp_path / "file.py"))


def test_a_file_that_changes_twice_within_a_second_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "file.py"
    for seed in (1, 2, 3):
        file.write_text(HEAD + f"    c.seed = {seed}\n    return c\n")
        assert config.load(str(file)).seed == seed


def test_a_duration_on_the_command_line_replaces_the_unit_of_the_file():
    c = config.load(VIT, {"total_steps": "1e3", "eval.every_percent": "10"})
    assert c.total_epochs is None
    assert config.steps_of(c, "total", 1000) == 1000
    assert config.steps_of(c, "eval.every", 1000, total_steps=1000) == 100


@pytest.mark.parametrize(
    "names", [("total_steps", "total_epochs"), ("total_epochs", "total_steps")]
)
def test_removing_one_unit_of_a_duration_keeps_an_override_in_another_unit(names):
    given = {"total_steps": "17", "total_epochs": "none"}
    c = config.load(VIT, {name: given[name] for name in names})
    assert (c.total_steps, c.total_epochs) == (17, None)
    assert config.load(VIT, {"eval.every_steps": "none"}).eval.every_epochs is None


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ({"total_steps": "17"}, 17),
        ({"total_epochs": "2.5", "batch_size": "100"}, 25),
        ({"total_examples": "6400", "batch_size": "64"}, 100),
        ({"total_epochs": "0.0001"}, 1),
        ({"total_steps": "0"}, 0),
    ],
)
def test_durations_in_steps(overrides, steps):
    assert config.steps_of(config.load(VIT, overrides), "total", 1000) == steps


def test_what_follows_the_seed():
    c = config.load(
        VIT,
        {
            "seed": "3",
            "init_from": "runs/a/seed={seed}",
            "distill.teacher": "runs/{seed}/b{seed}",
            "data.subset_seed": "none",
        },
    )
    assert (c.init_from, c.distill.teacher) == ("runs/a/seed=3", "runs/3/b3")
    assert c.data.subset_seed == 3
    assert config.load(VIT, {"seed": "3"}).data.subset_seed == 0
    assert config.load(VIT, {"seed": "3", "init_from": "{x}/{}"}).init_from == "{x}/{}"


def test_the_digest_depends_on_result_fields_only():
    digest = config.digest(config.load(VIT))
    for run in ({"data.workers": "3"}, {"log.every_steps": "7"}, {"checkpoint.keep_last": "5"}):
        assert config.digest(config.load(VIT, run)) == digest
    for result in ({"seed": "1"}, {"model.depth": "3"}, {"optim.eps": "1e-7"}, {"augment": "flip"}):
        assert config.digest(config.load(VIT, result)) != digest


def test_differences_are_listed_field_by_field():
    old = config.flatten(config.load(VIT))
    new = config.load(VIT, {"seed": "1", "data.workers": "2"})
    assert config.difference(old, config.flatten(new)) == ["config.seed: was 0, is now 1"]
    # Neither a JSON round trip nor a field without a stored value is a difference.
    stored = json.loads(json.dumps(old))
    del stored["ema.decay"]
    assert config.difference(stored, config.flatten(config.load(VIT))) == []


def test_a_reference_to_another_field_has_its_value():
    tree = config.default()
    with tree.unlocked():
        tree.eval.batch_size = tree.get_ref("batch_size")
    tree.batch_size = 48
    assert config.flatten(tree)["eval.batch_size"] == 48


def test_a_config_is_locked():
    c = config.default()
    assert isinstance(c, ml_collections.ConfigDict)
    with pytest.raises((KeyError, AttributeError)):
        c.optim.larning_rate = 1.0


def test_argument_values_get_the_types_of_the_defaults():
    dataset, options = config.parse_argument("cifar10,epochs=10,deep=true", epochs=0.5, deep=False)
    assert (dataset, options) == ("cifar10", {"epochs": 10.0, "deep": True})
    assert config.parse_argument("", epochs=0.5) == ("digits", {"epochs": 0.5})
    with pytest.raises(InputError, match=r"config argument epochs=ten: 'ten' is not a number"):
        config.parse_argument("cifar10,epochs=ten", epochs=0.5)
    assert config.parse_argument("", recipe=("paper", "v1"))[1] == {"recipe": "paper"}
    assert config.parse_argument("mnist,recipe=v1", recipe=("paper", "v1"))[1] == {"recipe": "v1"}
    with pytest.raises(InputError, match="config argument recipe=v3: 'v3' is not one of paper, v1"):
        config.parse_argument("mnist,recipe=v3", recipe=("paper", "v1"))


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("configs/x.py", ("configs/x.py", "")),
        ("configs/x.py:", ("configs/x.py", "")),
        ("configs/x.py:folder:/a,b/c.py:1", ("configs/x.py", "folder:/a,b/c.py:1")),
        ("/a:b/x.py:digits", ("/a:b/x.py", "digits")),
        ("x.pyc:digits", ("x.pyc", "digits")),
        ("", ("", "")),
    ],
)
def test_a_reference_is_a_path_and_an_argument(reference, parts):
    assert config.split_reference(reference) == parts


@pytest.mark.parametrize(
    ("argument", "dataset", "model"),
    [
        ("folder:/a,b/c", "folder:/a,b/c", "mlp"),
        ("folder:/a,b/c,model=vit_s16", "folder:/a,b/c", "vit_s16"),
        ("folder:/a=b, c/model=1", "folder:/a=b, c/model=1", "mlp"),
        ("records:/a,b,", "records:/a,b", "mlp"),
        ("cifar10:1.0.0,model=vit_s16", "cifar10:1.0.0", "vit_s16"),
        (",model=vit_s16", "digits", "vit_s16"),
    ],
)
def test_the_path_of_a_dataset_may_have_commas(argument, dataset, model):
    assert config.parse_argument(argument, model="mlp") == (dataset, {"model": model})


def test_an_argument_is_given_once():
    with pytest.raises(InputError, match="config argument 'model=b': model is given twice"):
        config.parse_argument("digits,model=a,model=b", model="mlp")
    with pytest.raises(InputError, match="config argument 'mnist' is not known"):
        config.parse_argument("digits,mnist", model="mlp")
