"""`python -m cv_jax augment STRING`: draws the effect of an augmentation string.

The picture shows the first batch of a run with this string and seed: a row of original images,
below it the augmented images of the training step (one row per view), and so on. Erased and mixed
images are converted back from the normalised scale.
"""

from pathlib import Path

from cv_jax import paths
from cv_jax.augment.batch import augment_batch
from cv_jax.commands import option_types
from cv_jax.config.fields import FIELDS
from cv_jax.errors import InputError, Parser, printable

_GAP = 4  # pixels between images
MOST = 100  # rows and columns of the picture


def main(arguments: list[str]) -> int:
    """Write a PNG and print its path.

    Raises:
      InputError: the string or the dataset is invalid, or the file exists.
    """
    parser = Parser(prog="python -m cv_jax augment", description=__doc__)
    parser.add_argument("string", help='for example "pad_crop(4)|flip|mixup(0.2)"')
    parser.add_argument("--data", default="digits", help="dataset, as config.data.name")
    parser.add_argument("--split", default="train", help="as config.data.train_split")
    parser.add_argument("--dir", help="folder of prepared datasets, as config.data.dir")
    parser.add_argument(
        "--out", type=option_types.path, default=Path("augment.png"), help="file to write"
    )
    parser.add_argument("--rows", type=int, default=4, help="rows of original images")
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="overwrite the file")
    options = parser.parse_args(arguments)
    option_types.require_ranges(
        options, rows=(1, MOST), columns=(1, MOST), seed=(0, FIELDS["seed"].maximum)
    )
    paths.require_new_file(options.out, "--out", options.force)

    from PIL import Image

    from cv_jax.interop.disk import replacing

    before, after = _images(options)
    with replacing(options.out) as scratch:
        Image.fromarray(_grid(before, after, options.columns)).save(scratch, format="PNG")
    shown = f"{options.out}: {len(before)} images of {options.data}"
    print(printable(f"{shown}, each above its augmented versions"))
    return 0


def _images(options):
    """Return original and augmented images.

    Returns:
      A list of uint8 [H, W, C], and uint8 [B, views, H, W, C].
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from cv_jax import augment
    from cv_jax import config as configs
    from cv_jax.data import pipeline, sources, splits
    from cv_jax.data.source import require_images

    config = configs.with_normalisation(configs.default(options.data, "linear"))
    config.augment, config.seed = options.string, options.seed
    augmentation = augment.parse(config.augment, image_size=config.image_size)
    folder = sources.data_folder(options.dir)
    source = sources.open_source(
        options.data, options.split, folder, options.seed, config.data.target
    )
    require_images(source, f"--data={options.data}")
    splits.announce(source)
    if not len(source):
        raise InputError(f"split {options.split!r} of {options.data!r} holds no examples")
    count = options.rows * options.columns
    batches = pipeline.TrainBatches(
        pipeline.Images(source, augmentation.fixed),
        augmentation.host,
        seed=options.seed,
        batch_size=count,
        rows=np.arange(count),
        total_steps=1,
        stream=augmentation.stream,
        places=bool(augmentation.epoch),
    )

    def augmented(batch):
        image = augment_batch(config, augmentation, source.num_classes, jnp.int32(0), batch)[
            "image"
        ]
        image = image * jnp.asarray(config.data.std) + jnp.asarray(config.data.mean)
        return jnp.clip(jnp.round(255 * image), 0, 255).astype(jnp.uint8)

    try:
        after = np.asarray(jax.jit(augmented)(batches[0]))
    except (ValueError, TypeError) as error:
        raise InputError(f"{options.string!r}: {str(error).splitlines()[0]}") from None
    before = [np.asarray(batches.images.get(index)[0]) for index in batches.indices(0)]
    return before, after.reshape(count, -1, *after.shape[-3:])


def _grid(before, after, columns):
    """Return one RGB image, uint8 [H, W, 3]: each original above its augmented versions."""
    import numpy as np
    from PIL import Image, ImageOps

    count, views, height, width, _ = after.shape
    down, across = height + _GAP, width + _GAP
    rows = count // columns * (1 + views)
    grid = np.full((rows * down + _GAP, columns * across + _GAP, 3), 255, np.uint8)

    def put(image, row, column):
        top, left = _GAP + row * down, _GAP + column * across
        grid[top : top + height, left : left + width] = image  # one channel broadcasts to three

    for i, original in enumerate(before):
        row, column = i // columns * (1 + views), i % columns
        if original.shape[:2] != (height, width):
            picture = Image.fromarray(original[..., 0] if original.shape[-1] == 1 else original)
            picture = ImageOps.pad(picture.convert("RGB"), (width, height), color="white")
            original = np.asarray(picture)
        put(original, row, column)
        for view in range(views):
            put(after[i, view], row + 1 + view, column)
    return grid
