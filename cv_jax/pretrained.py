"""The weights that a run starts from: `config.init_from`."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from cv_jax import models
from cv_jax.errors import InputError
from cv_jax.interop import saved
from cv_jax.models import mae, vit


def model_fields(config: ml_collections.ConfigDict, num_classes: int) -> dict[str, Any]:
    """The fields of a config's model, with those that data and image size give."""
    fields = {key: value for key, value in config.model.items() if key != "name"}
    given = {"num_classes": num_classes, "image_size": config.image_size}
    known = models.fields(config.model.name)
    return {**fields, **{key: value for key, value in given.items() if key in known}}


def load(
    config: ml_collections.ConfigDict, num_classes: int, image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Variables of the config's model, from the file that `config.init_from` names.

    A classifier for other classes is left out, other image, window and patch sizes and input
    channels are adapted, a masked autoencoder hands its encoder to a ViT; each is printed.

    Args:
      config: the run's config.
      num_classes: classes of the dataset.
      image_shape: (height, width, channels) of the model's input.

    Raises:
      InputError: the file is missing, none of ours, or does not fit; in one line.
    """
    name, fields = config.model.name, model_fields(config, num_classes)
    fields.pop("image_size", None)
    size, channels = tuple(image_shape[:2]), image_shape[-1]
    try:
        weights = saved.read(config.init_from)
        if weights.model not in models.MODELS:
            raise InputError(f"{weights.model}, the model in {config.init_from}, is not known here")
        pair = models.MODELS[weights.model].module, models.MODELS[name].module
        if pair == (mae.MAE, vit.ViT):
            weights = _encoder(weights, name, {**fields, "image_size": size}, config.seed)
        return saved.fit(
            weights,
            name,
            image_size=size,
            channels=channels,
            seed=config.seed,
            report=lambda line: print(f"{config.init_from}: {line}"),
            **fields,
        )
    except (InputError, ValueError) as error:
        raise InputError(f"config.init_from: {str(error).splitlines()[0]}") from None


def _encoder(weights: saved.Saved, name: str, fields: dict[str, Any], seed: int) -> saved.Saved:
    """The encoder of a masked autoencoder as a ViT of that name without a classifier."""
    autoencoder = models.create(
        weights.model, **{**weights.fields, "image_size": weights.image_size}
    )
    target = models.create(name, **{**fields, "num_classes": 0})
    image = jnp.zeros((1, *fields["image_size"], weights.channels))
    fresh = jax.jit(lambda key: target.init(key, image)["params"])(jax.random.key(seed))
    params = mae.to_vit(weights.variables["params"], autoencoder, fresh, target)
    return weights._replace(
        variables={"params": params}, model=name, fields={}, image_size=fields["image_size"]
    )
