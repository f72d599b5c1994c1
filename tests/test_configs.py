"""Every config of the repository resolves for its datasets, and trains for two steps."""

import re
from pathlib import Path

import numpy as np
import pytest
from slow import slow_except

from cv_jax import config as configs
from cv_jax.data import pipeline, sources
from cv_jax.data.source import Source
from cv_jax.optim.schedules import peak_rate
from cv_jax.training import experiment

FOLDER = Path(__file__).resolve().parent.parent / "configs"
FILES = sorted(FOLDER.glob("*.py"))
SHAPES = {  # dataset → (height, width, channels) or (length,), classes, training examples
    "digits": ((8, 8, 1), 10, 1438),
    "mnist": ((28, 28, 1), 10, 60000),
    "cifar10": ((32, 32, 3), 10, 50000),
    "imagenet2012": ((375, 500, 3), 1000, 1281167),
    **dict.fromkeys(("copy", "reverse", "sort"), ((10,), 20, 10000)),
}


class Blank:
    """Records with the shape and number of a dataset's examples, all zero."""

    def __init__(self, shape, size):
        self.shape, self.size = shape, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        example = np.zeros(self.shape, np.uint8)
        return (example, index % 10) if len(self.shape) == 3 else (example, example)


def blank_source(name, split):
    """A blank source with the facts of a dataset."""
    shape, classes, size = SHAPES[name]
    channels, length = (shape[-1], None) if len(shape) == 3 else (0, shape[0])
    facts = classes, channels, {"splits": {split: size}}
    return Source(name, Blank(shape, size), *facts, length=length, input_length=length)


def references():
    """Each file with each dataset, and with each option in its docstring."""
    for file in FILES:
        text = file.read_text()
        reads = 1 if file.stem == "transformer" else 3
        for dataset in (name for name in SHAPES if len(SHAPES[name][0]) == reads):
            if dataset != "imagenet2012" or ":imagenet2012" in text:
                yield f"{file.stem}:{dataset}"
        for dataset, option in re.findall(r"\.py:?\[?:?(\w+)?\[?,(\w+=\w+)", text):
            yield f"{file.stem}:{dataset if dataset in SHAPES else 'digits'},{option}"


@pytest.mark.parametrize("reference", list(references()))
def test_a_config_resolves(reference, monkeypatch):
    stem, _, argument = reference.partition(":")
    dataset = argument.partition(",")[0]
    shape, classes, _ = SHAPES[dataset]

    def open_blank(name, split, folder, seed=0, target=None):
        assert name == dataset
        return blank_source(name, split)

    monkeypatch.setattr(sources, "open_source", open_blank)
    monkeypatch.setattr(
        pipeline, "prepare", lambda source, fixed, *_: pipeline.Images(source, fixed)
    )
    config = configs.load(f"{FOLDER / stem}.py:{argument}")
    parts = experiment.build(config)
    side = config.image_size
    assert parts.input_shape == ((side, side, shape[-1]) if len(shape) == 3 else shape)
    assert parts.num_classes == classes
    assert parts.total_steps > 100
    assert 0 < float(parts.schedule(parts.total_steps // 3)) <= peak_rate(config) * 1.001
    assert parts.every("eval.every") > 0
    assert parts.every("checkpoint.every") > 0


def test_every_docstring_has_the_command():
    for file in FILES:
        docstring = file.read_text().split('"""')[1]
        assert f"python launch.py --config configs/{file.name}" in docstring


# Reference → overrides that make large networks small. README and docs train the other configs.
FAMILIES = {
    "lenet5": {},
    "lenet5:digits,model=lenet5_1998": {},
    "alexnet": {"model.channels": "8,16,16,16,16", "model.fc_width": 32},
    "vgg": {"model.widths": "8,8,16,16,16", "model.fc_width": 32},
    "resnet20_cifar": {"model.stage_sizes": "1,1,1"},
    "vit_ti16": {"model.depth": 2},
    "vit_s16": {"model.depth": 1},
    "deit:digits,model=deit_ti16_distilled": {"model.depth": 1, "model.width": 48},
    "swin": {"model.width": 16, "model.depths": "2,1", "model.num_heads": "1,2"},
    "swin:digits,model=swinv2_t": {"model.depths": "1,1", "model.num_heads": "1,2"},
    "image_transformer": {"model.depth": 1, "model.decoder_depth": 1},
    "cifar_speedrun": {"model.widths": "4,8", "image_size": 16, "eval.batch_size": 80},
    "transformer": {"model.depth": 1, "schedule.timescale_steps": 2},
}


def test_every_config_is_trained_here_or_in_the_documents():
    pages = [FOLDER.parent / "README.md", *FOLDER.parent.glob("docs/*.md")]
    text = "".join(page.read_text() for page in pages)
    here = {reference.partition(":")[0] for reference in FAMILIES}
    for file in FILES:
        assert file.stem in here or f"python launch.py --config configs/{file.name}" in text


@pytest.mark.parametrize("reference", slow_except(FAMILIES, "lenet5"))
def test_a_family_makes_two_steps(reference, load_config, fast_compilation):
    name, _, argument = reference.partition(":")
    few = {"total_steps": 2, "batch_size": 8, "mesh.devices": 1, "schedule.warmup_epochs": "none"}
    parts = experiment.build(load_config(name, {**few, **FAMILIES[reference]}, argument))
    state, train_step = parts.init()(), parts.train_step()
    before = np.concatenate([np.ravel(leaf) for leaf in _leaves(state.params)])
    for batch in parts.train_batches(0):
        state, metrics = train_step(state, batch)
        assert np.isfinite(metrics["loss"])
    after = np.concatenate([np.ravel(leaf) for leaf in _leaves(state.params)])
    assert state.step == 2
    assert np.isfinite(after).all()
    assert (before != after).any()


def _leaves(tree):
    import jax

    return jax.device_get(jax.tree.leaves(tree))
