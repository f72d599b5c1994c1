"""Additions from outside the package: the code of docs/extending.md is executed and used."""

import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402
from cv_jax import __main__ as commands  # noqa: E402
from cv_jax import augment, models  # noqa: E402
from cv_jax import config as configs  # noqa: E402
from cv_jax.config.fields import FIELDS  # noqa: E402
from cv_jax.config.presets import PRESETS  # noqa: E402
from cv_jax.data import sources  # noqa: E402
from cv_jax.errors import InputError  # noqa: E402
from cv_jax.evaluation.kinds import KINDS  # noqa: E402
from cv_jax.optim.optimisers import OPTIMISERS  # noqa: E402
from cv_jax.optim.parameter_rules import treatments  # noqa: E402

PAGE = (ROOT / "docs" / "extending.md").read_text()
# Heading → its Python blocks.
BLOCKS = {
    section.partition("\n")[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for section in PAGE.split("\n## ")[1:]
}
CONFIG = [blocks for title, blocks in BLOCKS.items() if title != "A command"]
REGISTRIES = (
    *(models.MODELS, augment.STAGES["image"], OPTIMISERS, FIELDS, PRESETS, sources.SOURCES),
    *(KINDS, commands.COMMANDS),
)


@pytest.fixture(autouse=True)
def _registries():
    """Every registry has its old entries after the test."""
    before = [dict(registry) for registry in REGISTRIES]
    yield
    for registry, entries in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(entries)


@pytest.fixture
def extended(tmp_path):
    """The page's config file."""
    file = tmp_path / "extended.py"
    file.write_text("\n\n".join(block for blocks in CONFIG for block in blocks))
    return file


def execute(title):
    """Execute the blocks of a section by themselves."""
    namespace = {"__name__": "extension"}
    for block in BLOCKS[title]:
        exec(compile(block, "docs/extending.md", "exec"), namespace)
    return namespace


def train(workdir, reference, *flags):
    small = ["--config.total_steps=2", "--config.batch_size=8", "--config.mesh.devices=1"]
    return launch.main(["--config", str(reference), "--workdir", str(workdir), *small, *flags])


def metrics(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["split"]: line for line in lines}


def test_a_variant_of_a_model():
    execute("A model")
    base, variant = models.fields("vit_s16"), models.fields("vit_xs16")
    assert {name for name in base if base[name] != variant[name]} == {"width", "depth", "num_heads"}
    assert models.MODELS["vit_xs16"].layer_order == models.MODELS["vit_s16"].layer_order
    assert models.card("vit_xs16").parameters < models.card("vit_s16").parameters / 2


def test_every_section_has_code():
    kinds = ["model", "augmentation", "optimiser", "dataset", "evaluation"]
    titles = [next(t for t in BLOCKS if t.endswith(f" {kind}")) for kind in kinds]
    assert [*titles, "A config with all of them", "A command"] == list(BLOCKS)
    assert all(BLOCKS.values())


def test_all_of_them_in_one_config(tmp_path, extended):
    workdir = tmp_path / "run"
    assert train(workdir, f"{extended}:shapes") == 0
    found = metrics(workdir)
    assert found["test"]["count"] == 128
    assert 0 < found["entropy"]["entropy"] < 0.7  # log 2
    assert 0 <= found["entropy"]["sure"] <= 1
    config = json.loads((workdir / "config.json").read_text())
    assert (config["model.name"], config["optim.name"]) == ("residual_mlp", "signum")
    assert config["image_size"] == 16
    assert train(workdir, f"{extended}:shapes", "--evaluate") == 0


def test_a_model(tmp_path, data_dir):
    execute("A model")
    card = models.card("residual_mlp")
    assert card.parameters == 32 * 32 * 3 * 64 + 64 + 2 * (64 * 64 + 64) + 64 * 10 + 10
    reference = f"{ROOT}/configs/mlp.py:digits,model=residual_mlp"
    file = tmp_path / "plain.py"
    file.write_text(
        "from cv_jax import config\n"
        "def get_config(arg=''):\n"
        "    return config.default('digits', 'residual_mlp')\n"
    )
    flags = [f"--config.data.dir={data_dir}", "--config.image_size=8", "--config.model.width=8"]
    flags += ["--config.optim.name=muon", "--config.optim.layer_decay=0.5"]
    assert train(tmp_path / "run", file, *flags) == 0
    assert metrics(tmp_path / "run")["test"]["count"] == 359
    with pytest.raises(InputError, match="dropout_rate"):  # mlp.py sets a field of the MLP
        configs.load(reference)


def test_layer_decay_follows_the_order_of_the_model():
    execute("A model")
    config = configs.default("digits", "residual_mlp")
    config.optim.layer_decay = 0.5
    model = models.create("residual_mlp")
    shapes = jax.eval_shape(model.init, jax.random.key(0), *models.dummy_inputs("residual_mlp"))
    found = treatments(config, model, shapes["params"])
    rates = [found[f"{layer}/kernel"].lr for layer in ("embed", "blocks_0", "blocks_1", "head")]
    assert rates == [0.125, 0.25, 0.5, 1.0]


def test_an_augmentation():
    execute("An augmentation")
    operations = augment.parse("flip|noise(8, probability=0.5)").image
    images = np.full((64, 8, 8, 1), 128, np.float32)
    keys = jax.random.split(jax.random.key(0), 64)
    result = np.asarray(augment.apply_images(operations, keys, images))
    changed = [i for i in range(64) if result[i].std() > 0]
    assert 16 < len(changed) < 48
    assert np.std(result[changed]) == pytest.approx(8, rel=0.1)
    with pytest.raises(InputError, match="strength must not be negative"):
        augment.parse("noise(-1)")


def test_an_optimiser(tmp_path, data_dir):
    execute("An optimiser")
    config = f"{ROOT}/configs/mlp.py"
    flags = [f"--config.data.dir={data_dir}", "--config.model.widths=8", "--config.image_size=8"]
    assert train(tmp_path / "run", config, *flags, "--config.optim.name=signum") == 0
    with pytest.raises(InputError, match="did you mean"):
        train(tmp_path / "other", config, *flags, "--config.optim.name=signun")


def test_a_dataset(tmp_path):
    execute("A dataset")
    source = sources.open_source("shapes", "train", tmp_path)
    image, label = source.example(3)
    assert (image.shape, image.dtype, label) == ((16, 16, 1), np.uint8, 1)
    pixels = np.stack([source.example(i)[0] for i in range(len(source))]) / 255
    assert PRESETS["shapes"]["data.mean"][0] == pytest.approx(pixels.mean(), abs=0.03)
    assert PRESETS["shapes"]["data.std"][0] == pytest.approx(pixels.std(), abs=0.03)
    with pytest.raises(InputError, match="unknown split 'val' of shapes"):
        sources.open_source("shapes", "val", tmp_path)
    assert train(tmp_path / "run", f"{ROOT}/configs/linear.py:shapes") == 0
    assert metrics(tmp_path / "run")["test"]["count"] == 128


def test_an_evaluation(tmp_path, data_dir):
    execute("An evaluation")
    config = f"{ROOT}/configs/linear.py"
    flags = [f"--config.data.dir={data_dir}", "--config.image_size=8"]
    extra = "--config.eval.extra=entropy(name='doubt', split='test[:50]', preprocess='resize(8)')"
    assert train(tmp_path / "run", config, *flags, extra) == 0
    assert 0 < metrics(tmp_path / "run")["doubt"]["entropy"] <= np.log(10) + 1e-6
    extra = "--config.eval.extra=entropy(threshold=-1)"
    with pytest.raises(InputError, match="entropy: threshold: -1.0 is not positive"):
        train(tmp_path / "other", config, *flags, extra)


def test_a_command(tmp_path, monkeypatch, capsys):
    module, registration = BLOCKS["A command"]
    package = tmp_path / "outside_commands"
    package.mkdir()
    (package / "parameters.py").write_text(module)
    monkeypatch.syspath_prepend(str(package.parent))
    exec(registration.replace("cv_jax.commands.", "outside_commands."), {})
    assert commands.main(["parameters", "lenet5"]) == 0
    assert "head/kernel (84, 10)" in capsys.readouterr().out
    assert commands.main(["parameters", "lenet6"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown model 'lenet6'")
    assert commands.main(["--help"]) == 0
    assert "print the parameters of a model" in capsys.readouterr().out
