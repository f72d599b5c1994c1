"""Registry entries: names in them exist, and a model from outside the package works everywhere."""

import re

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import SMALL

from cv_jax import config, models, tasks
from cv_jax.devices import mesh as meshes
from cv_jax.devices import partition
from cv_jax.errors import InputError
from cv_jax.models.entry import Entry
from cv_jax.optim import muon, optimisers, parameter_rules
from cv_jax.tasks.classification import classification


def parameters(small):
    """Names of a small net's parameters."""
    model = models.create(small.name, **small.fields)
    inputs = small.inputs(1) if small.inputs else (np.zeros((1, *small.image), np.float32),)
    rngs = {name: jax.random.key(0) for name in ("params", "mask")}
    params = jax.eval_shape(model.init, rngs, *inputs)["params"]
    return flax.traverse_util.flatten_dict(params, sep="/")


@pytest.fixture(scope="module")
def names():
    """Module class → names of the parameters of its small nets."""
    found = {}
    for small in SMALL.values():
        module = models.MODELS[small.name].module
        found.setdefault(module, set()).update(parameters(small))
    return found


@pytest.mark.parametrize("name", models.list_models())
def test_names_in_an_entry_exist(name, names):
    entry = models.MODELS[name]
    known = names[entry.module]
    for layer in (*entry.first_layers, *entry.last_layers):
        assert any(re.fullmatch(f"(?:{layer})/.*", path) for path in known) or layer == "head"
    layers = {path.split("/")[-2] for path in known if "/" in path}
    fused = entry.fused(models.create(name)) if callable(entry.fused) else entry.fused
    assert set(fused) & layers or not fused
    undecayed = (entry.undecayed or "bias").split("|")
    assert any(re.fullmatch(f".*(?:{end})", path) for end in undecayed for path in known)
    ends = "|".join(entry.tensor_axes)
    assert not ends or any(re.search(f"/({ends})$", path) for path in known)
    for pattern in entry.layer_order:
        assert any(re.fullmatch(pattern, path) for path in known)
    assert entry.task in tasks.TASKS
    assert set(entry.converters) <= {other.module for other in models.MODELS.values()}


# ---- A model from outside the package


class Tower(nn.Module):
    """Stages of dense blocks, with names of its own."""

    num_classes: int = 3
    stages: tuple[int, ...] = (2, 1)
    width: int = 8

    @nn.compact
    def __call__(self, image, *, train=False):
        x = nn.Dense(self.width, name="pixels")(image.reshape(len(image), -1))
        for stage, blocks in enumerate(self.stages, 1):
            for i in range(blocks):
                x = x + nn.Dense(self.width, name=f"stage{stage}_unit{i}")(nn.relu(x))
        x = nn.Dense(2 * self.width, name="pair")(x)
        return nn.Dense(self.num_classes, name="scores")(x), {"pre_logits": x}


@pytest.fixture
def tower(monkeypatch):
    """Name of the registered model."""
    entry = Entry(
        Tower,
        dict(width=4),
        2025,
        "no paper",
        image_size=(4, 4),
        channels=1,
        task="ranking",
        layer_order=("pixels/.*", r"stage(\d+)_unit(\d+)/.*"),
        first_layers=("pixels",),
        last_layers=("scores",),
        fused={"pair": 2},
        tensor_axes={r"stage\d+_unit\d+/kernel": (None, "model")},
    )
    monkeypatch.setitem(models.MODELS, "tower", entry)
    monkeypatch.setitem(tasks.TASKS, "ranking", classification)
    return "tower"


def test_an_outside_model_is_created_and_has_its_task(tower):
    assert models.list_models("tow*") == ["tower"]
    assert models.create(tower).width == 4
    assert models.card(tower).parameters == 17 * 4 + 3 * 5 * 4 + 5 * 8 + 9 * 3
    with pytest.raises(ValueError, match="has no field 'widht'; did you mean width"):
        models.create(tower, widht=3)
    c = config.default(model=tower)
    assert tasks.task_name(c) == "ranking"
    assert tasks.make_task(c, models.create(tower)).classes == 3


def treated(tower, **settings):
    c = config.default(model=tower)
    for name, value in settings.items():
        c.optim[name] = value
    model = models.create(tower)
    params = model.init(jax.random.key(0), *models.dummy_inputs(tower))["params"]
    return c, params, parameter_rules.treatments(c, model, params)


def test_layer_decay_of_an_outside_model(tower):
    _, _, found = treated(tower, layer_decay=0.5)
    powers = {"pixels": 4, "stage1_unit0": 3, "stage1_unit1": 2, "stage2_unit0": 1, "scores": 0}
    assert {f"{n}/kernel": 0.5**p for n, p in powers.items()} == {
        name: t.lr for name, t in found.items() if name.endswith("kernel") and "pair" not in name
    }


def test_layer_decay_without_a_layer_order_is_refused(tower, monkeypatch):
    monkeypatch.setitem(models.MODELS, tower, models.MODELS[tower]._replace(layer_order=None))
    with pytest.raises(InputError, match="no layer order is known for model tower; its registry"):
        treated(tower, layer_decay=0.5)


def test_muon_of_an_outside_model(tower):
    """The first update: AdamW's is the sign of the gradient, Muon's has equal singular values."""
    c, params, found = treated(tower, name="muon", weight_decay=0.0)
    optimiser = optimisers.make_optimiser(c, lambda step: 1.0, found, 10)
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), params)
    updates, _ = optimiser.update(gradients, optimiser.init(params), params)
    for layer, update in updates.items():
        kernel, gradient = -update["kernel"], gradients[layer]["kernel"]
        if layer in ("pixels", "scores"):
            np.testing.assert_allclose(kernel, jnp.sign(gradient), rtol=1e-4)
            continue
        parts = jnp.split(gradient, 2 if layer == "pair" else 1, axis=1)
        expected = [muon.orthogonalise(x) * muon.UPDATE_RMS * max(x.shape) ** 0.5 for x in parts]
        np.testing.assert_allclose(kernel, jnp.concatenate(expected, axis=1), rtol=1e-3, atol=1e-5)


def test_tensor_axes_of_an_outside_model(tower):
    c, params, _ = treated(tower)
    places = partition.stored(c, meshes.make_mesh(8, 2), params)
    split = {
        layer: tuple(place["kernel"].spec)
        for layer, place in places.items()
        if any(place["kernel"].spec)
    }
    assert split == dict.fromkeys(("stage1_unit0", "stage1_unit1", "stage2_unit0"), (None, "model"))
