"""Sweeps of configs/experiments: every point resolves, and some points of each sweep are built."""

from pathlib import Path

import jax
import numpy as np
import pytest
from test_configs import SHAPES, Blank

from cv_jax import augment, models
from cv_jax import config as configs
from cv_jax.data import pipeline, sources
from cv_jax.data.source import Source
from cv_jax.errors import InputError
from cv_jax.inspect import receptive_field
from cv_jax.sweep import points
from cv_jax.training import experiment

FOLDER = Path(__file__).resolve().parent.parent / "configs" / "experiments"
DATASETS = ("digits", "cifar10", "imagenet2012")


# Experiments of the course, whose networks are small.
SMALL = ("convolution.py", "alexnet.py", "receptive_field.py", "vgg_depth.py", "attention.py")
SMALL += ("vit_data.py", "windows.py", "equal_compute.py")
NEEDS = {"teachers.py": "teacher=RUN", "masking.py": "pretrained=FOLDER"}


class Labelled(Blank):
    def labels(self, progress):
        return np.arange(self.size) % 10


@pytest.fixture
def blank_data(monkeypatch):
    """Replaces a dataset by blank images of its shape, number and classes."""

    def replace(dataset):
        shape, classes, size = SHAPES[dataset]

        def open_blank(name, split, folder, seed=0, target=None):
            blank = Labelled(shape, size)
            return Source(name, blank, classes, shape[-1], {"splits": {split: size}})

        monkeypatch.setattr(sources, "open_source", open_blank)
        monkeypatch.setattr(
            pipeline, "prepare", lambda source, fixed, *_: pipeline.Images(source, fixed)
        )

    return replace


def sweep(name, dataset, seeds=None):
    return points.read(f"{FOLDER / name}.py:{dataset}", {}, seeds=seeds)


def configs_of(name, dataset):
    """The resolved config of every point."""
    found = sweep(name, dataset)
    return {p.name: configs.load(found.reference(p), found.texts(p)) for p in found.points}


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize(("name", "least"), [("depth", 4), ("patch_size", 3), ("augmentation", 14)])
def test_points(name, least, dataset):
    found = configs_of(name, dataset)
    assert len(found) >= least
    assert len({configs.digest(config) for config in found.values()}) == len(found)
    for config in found.values():
        assert config.data.name == dataset
        assert config.image_size in (16, 32, 224)


def test_every_docstring_has_the_commands():
    for file in FOLDER.glob("*.py"):
        docstring = file.read_text().split('"""')[1]
        # Experiments with datasets of their own: known places, and sequences.
        own = ("pointing.py", "transformer_ablations.py")
        others = () if file.name in own else (":cifar10", ":imagenet2012")
        if file.name in SMALL:
            others = (":cifar10",)
        if file.name in NEEDS:  # the run of another sweep
            others = ()
            for place in ("", "cifar10,"):
                assert f"experiments/{file.name}:{place}{NEEDS[file.name]} --sweep" in docstring
        for argument in ("", *others):
            command = f"python launch.py --config configs/experiments/{file.name}{argument} --sweep"
            assert command in docstring or file.name in NEEDS


def test_the_documented_table_is_the_recorded_one():
    recorded = FOLDER.parent.parent / "benchmarks" / "results" / "experiments" / "lineage"
    table = (recorded / "report.md").read_text().split("\n\n")[2]
    assert len(table.splitlines()) == 2 + len(configs_of("lineage", "digits"))
    assert table in (FOLDER.parent.parent / "docs" / "experiments.md").read_text()


def test_depth_counts_the_layers():
    """Networks of 8 to 56 layers; plain and residual ones differ in their shortcuts only."""
    found = configs_of("depth", "cifar10")
    assert len(found) == 10
    for depth in (8, 20, 32, 44, 56):
        plain = found[f"net=plain,depth={depth}"]
        residual = found[f"net=residual,depth={depth}"]
        assert plain.model.shortcut == "none"
        assert 6 * plain.model.stage_sizes[0] + 2 == depth
        residual.model.shortcut, residual.model.name = "none", plain.model.name
        assert residual == plain
    # 64,000 steps as in the paper, or `epochs`.
    assert plain.total_steps == 64000
    short = configs.load(f"{FOLDER / 'depth.py'}:cifar10,net=plain,depth=20,epochs=20")
    assert (short.total_steps, short.total_epochs) == (None, 20.0)
    with pytest.raises(InputError, match="did you mean"):
        configs.load(f"{FOLDER / 'depth.py'}:cifar10,net=plain,depth=21")


@pytest.mark.parametrize("dataset", DATASETS)
def test_augmentation_adds_one_operation_after_the_other(dataset):
    found = configs_of("augmentation", dataset)
    strings = [c.augment for name, c in found.items() if name.startswith("net=vit")]
    assert len(strings) == 7
    counts = [sum(map(len, augment.parse(string)[1:])) for string in strings]
    # CutMix shares an operation with mixup. Every other policy after flip_crop adds one.
    assert [b - a for a, b in zip(counts[1:], counts[2:], strict=False)] == [1, 1, 1, 0, 1]
    assert not any(augment.parse(strings[0])[3:])
    for net in ("resnet", "linear") if dataset != "imagenet2012" else ("resnet",):
        assert strings == [c.augment for n, c in found.items() if n.startswith(f"net={net}")]
    assert len({c.total_epochs for c in found.values()}) == 1


def test_lineage_is_in_the_order_of_the_years():
    for dataset in DATASETS:
        found = configs_of("lineage", dataset)
        years = [models.MODELS[config.model.name].year for config in found.values()]
        assert years == sorted(years)
    modules = {
        models.MODELS[config.model.name].module
        for config in configs_of("lineage", "digits").values()
    }
    assert len(modules) == 9  # DeiT is a ViT
    with pytest.raises(InputError, match="is not one of linear, mlp"):
        configs.load(f"{FOLDER / 'lineage.py'}:digits,model=resnet50")


@pytest.mark.parametrize(
    ("name", "dataset", "point"),
    [
        ("depth", "digits", 1),
        ("patch_size", "digits", 0),
        ("augmentation", "digits", 20),
        ("lineage", "digits", 9),
        ("depth", "imagenet2012", 0),
        ("patch_size", "imagenet2012", 0),
        ("patch_size", "cifar10", 3),
        ("augmentation", "cifar10", 6),
        ("augmentation", "imagenet2012", 13),
        ("lineage", "cifar10", 3),
        ("lineage", "imagenet2012", 4),
    ],
)
def test_a_point_builds_on_data_of_that_shape(name, dataset, point, blank_data):
    _, classes, _ = SHAPES[dataset]
    blank_data(dataset)
    found = sweep(name, dataset)
    chosen = found.points[point]
    config = configs.load(found.reference(chosen), found.texts(chosen))
    parts = experiment.build(config)
    assert parts.num_classes == classes
    assert parts.total_steps > 100
    evaluations = {evaluation.name: evaluation for evaluation in parts.evaluations}
    extra = {"depth": "train_eval", "lineage": "train_eval", "augmentation": "mirrored"}.get(name)
    if extra is not None:
        image, _ = evaluations[extra].images.get(0)
        assert image.shape == parts.input_shape


def test_mlps_have_the_size_of_lenet5():
    """Within one percent: parameters and multiply-adds as counted from the programs."""
    for dataset, channels in (("digits", 1), ("cifar10", 3)):
        sizes = {}
        for name, config in configs_of("convolution", dataset).items():
            if name.endswith("pixels=in_order"):
                assert config.image_size == 32
                fields = {k: v for k, v in config.model.items() if k != "name"}
                model = models.create(config.model.name, num_classes=10, **fields)
                sizes[name.split(",")[0]] = size_of(model, 32, channels)
        for i, rival in enumerate(("mlp_parameters", "mlp_multiply_adds")):
            assert abs(sizes[f"net={rival}"][i] / sizes["net=lenet5"][i] - 1) < 0.01


def size_of(model, side, channels):
    """(parameters, multiply-adds) of a network."""
    image = jax.ShapeDtypeStruct((1, side, side, channels), "float32")
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    return count, models.count_multiply_adds(model.apply, variables, image)[0]


def test_equal_compute_is_equal():
    """All but the smallest networks, whose updates are limited, make the same multiply-adds."""
    for dataset, channels in (("digits", 1), ("cifar10", 3)):
        totals, parameters = {}, {}
        for name, config in configs_of("equal_compute", dataset).items():
            fields = {k: v for k, v in config.model.items() if k != "name"}
            if "image_size" in models.fields(config.model.name):
                fields["image_size"] = config.image_size
            model = models.create(config.model.name, num_classes=10, **fields)
            count, adds = size_of(model, config.image_size, channels)
            if config.total_steps < (3000 if dataset == "digits" else 30_000):
                totals[name] = config.total_steps * config.batch_size * adds
            parameters[name] = count
        assert len(totals) >= 5
        assert max(totals.values()) / min(totals.values()) < 1.02
        if dataset == "digits":
            sizes = [n for name, n in parameters.items() if name != "model=linear"]
            assert min(sizes) > 50_000
            assert max(sizes) < 70_000


def test_three_small_filters_have_the_field_and_the_parameters_of_a_large_one():
    found = configs_of("receptive_field", "digits")
    field = points.read(f"{FOLDER / 'receptive_field.py'}:digits", {}, "field")
    found |= {p.name: configs.load(field.reference(p), field.texts(p)) for p in field.points}
    sizes, fields = {}, {}
    for name, config in found.items():
        options = {k: v for k, v in config.model.items() if k != "name"}
        model = models.create(config.model.name, num_classes=10, **options)
        sizes[name] = size_of(model, 16, 1)[0]
        inputs = (np.zeros((1, 16, 16, 1), np.float32),)
        last = f"conv2_{config.model.depths[-1]}"
        layers = receptive_field.layers(model, inputs, (16, 16))
        fields[name] = next(x.size for x in layers if x.name == last)
    assert fields["net=three_3x3"] == fields["net=one_7x7"] == fields["net=one_7x7_narrow"]
    assert abs(sizes["net=one_7x7_narrow"] / sizes["net=three_3x3"] - 1) < 0.05
    assert sizes["net=one_7x7"] > 1.6 * sizes["net=three_3x3"]
    smaller = [fields[f"net={name}"][0] for name in ("one_1x1", "one_3x3", "two_3x3", "three_3x3")]
    assert smaller == [4, 8, 12, 16]


@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_training_longer_costs_as_much_as_pre_training(dataset, blank_data):
    """From scratch: the multiply-adds of pre-training and fine-tuning together, within 1 %."""
    blank_data(dataset)

    def built(argument):
        return experiment.build(configs.load(f"{FOLDER / 'masking.py'}:{dataset},{argument}"))

    def cost(parts):
        return parts.total_steps * parts.config.batch_size * parts.sizes.multiply_adds

    pretrained, fine_tuned = built("stage=pretrain,ratio=0.75"), built("stage=finetune")
    longer = built("stage=longer")
    assert longer.sizes == fine_tuned.sizes
    assert abs(cost(longer) / (cost(pretrained) + cost(fine_tuned)) - 1) < 0.01
