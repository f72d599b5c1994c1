"""The registry: names, fields, mistakes."""

import jax
import pytest

from cv_jax import models

# In chronological order.
CONVOLUTIONAL = """
linear mlp lenet5_1998 lenet5 alexnet alexnet_one_stream
vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vgg11_lrn vgg16_c
resnet18 resnet34 resnet50 resnet101 resnet152 resnet50_v1 resnet50_preact plain18 plain34
resnet8_cifar resnet20_cifar resnet32_cifar resnet44_cifar resnet56_cifar resnet110_cifar
resnet1202_cifar
plain8_cifar plain20_cifar plain32_cifar plain44_cifar plain56_cifar plain110_cifar
"""


def test_names_of_the_convolutional_line():
    names = CONVOLUTIONAL.split()
    assert models.list_models()[: len(names)] == names
    assert models.list_models("vgg1[13]_bn") == ["vgg11_bn", "vgg13_bn"]
    assert models.list_models("nothing*") == []


def test_fields_are_defaults_and_what_the_name_sets():
    fields = models.fields("resnet20_cifar")
    assert fields["stage_sizes"] == (3, 3, 3)
    assert fields["shortcut"] == "A"
    assert fields["groups"] == 1
    assert not {"name", "parent"} & set(fields)
    assert models.create("resnet20_cifar").stage_sizes == (3, 3, 3)
    assert models.create("resnet20_cifar", stage_sizes=(1, 1, 1)).stage_sizes == (1, 1, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.create("resnet5"), "unknown model 'resnet5'; did you mean resnet50"),
        (lambda: models.fields("zzz"), r"unknown model 'zzz'; see list_models\(\)"),
        (lambda: models.create("mlp", width=3), "no field 'width'; did you mean widths"),
        (lambda: models.create("linear", zzz=3), "no field 'zzz'; it has num_classes, dtype"),
    ],
)
def test_mistakes_name_the_nearest(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_cards_count_without_computing():
    """Running statistics are not parameters."""
    card = models.card("resnet8_cifar")
    assert card.inputs == ((32, 32, 3),)
    assert card.num_classes == 10
    model = models.create("resnet8_cifar")
    shapes = jax.eval_shape(model.init, jax.random.key(0), *models.dummy_inputs("resnet8_cifar"))
    assert set(shapes) == {"params", "batch_stats"}
    assert card.parameters == sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
