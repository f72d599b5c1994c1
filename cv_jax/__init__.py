"""The line of image classifiers, from one matrix product to masked autoencoders, in JAX.

Nothing is imported here. The entry points, by module:

- `cv_jax.models`: `create(name)`, `list_models(pattern)`, `card(name)`
- `cv_jax.config`: `load("FILE[:ARGUMENT]", overrides)`, `default(dataset, model)`
- `cv_jax.augment`: `parse(string)`
- `cv_jax.training.experiment`: `build(config)`
- `cv_jax.training.loop`: `train(experiment, workdir, command)`
- `cv_jax.training.evaluate`: `evaluate(experiment, workdir)`
- `cv_jax.interop`: `load(model, source, state_dict)`, `export(model, source, variables)`
- `cv_jax.inspect.receptive_field`: `layers(model, inputs, image_size)`
- `cv_jax.inspect.templates`: `compare(kernel, std, pixels, labels)`

On the command line: `python launch.py` and `python -m cv_jax COMMAND`. docs/extending.md lists the
dicts that new models, augmentations, optimisers, datasets, evaluations and commands are added to.
"""

__version__ = "0.1.0"
