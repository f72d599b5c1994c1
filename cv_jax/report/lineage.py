"""Publication year and receptive field of each model, for sweeps over models."""

from cv_jax import config as configs
from cv_jax import models
from cv_jax.errors import InputError
from cv_jax.inspect import receptive_field
from cv_jax.report.settings import Setting


def by_year(settings: list[Setting]) -> list[Setting]:
    """Sort by year of publication; within a year, in the order of the sweep."""
    return sorted(settings, key=lambda s: _year(s) or 9999)


def facts(setting: Setting) -> list[str]:
    """Return the year, and the receptive field of the last layer with spatial positions."""
    if not setting.results:
        return [str(_year(setting) or ""), ""]
    config = setting.results[0].config
    return [str(_year(setting) or ""), _field(config)]


def _year(setting: Setting) -> int | None:
    name = setting.results[0].config["model.name"] if setting.results else setting.values["model"]
    return models.MODELS[name].year if name in models.MODELS else None


def _field(values: dict) -> str:
    """Return the side of the receptive field in pixels, or "image"."""
    config = configs.restore(values)
    name, size = config.model.name, config.image_size
    size = (size, size) if isinstance(size, int) else tuple(size)
    fields = {key: value for key, value in config.model.items() if key != "name"}
    if "image_size" in models.fields(name):
        fields["image_size"] = size
    inputs = models.dummy_inputs(name)
    try:
        layers = receptive_field.layers(models.create(name, **fields), inputs, size)
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"receptive field of {name}: {str(error).splitlines()[0]}") from None
    placed = [layer for layer in layers if len(layer.shape) > 1]
    if not placed or placed[-1].size is None:
        return "image"
    rows, columns = placed[-1].size
    return str(rows) if rows == columns else f"{rows}x{columns}"
