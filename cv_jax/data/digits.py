"""The embedded default dataset: handwritten digits, as a TFDS dataset.

The 1,797 8×8 images that scikit-learn carries are the test part of the UCI "Optical recognition of
handwritten digits" set (Alpaydin and Kaynak, 1998; 17 grey levels). Of each class, the middle one
of every five images in the order given is a test image: a stratified split of 1,438 to train and
359 to test.
"""

import contextlib
import io
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

NAME, VERSION = "digits", "1.0.0"


class Digits(tfds.core.GeneratorBasedBuilder):
    """8×8 grey images of the digits 0 to 9; splits `train` and `test`."""

    name = NAME
    VERSION = tfds.core.Version(VERSION)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="8x8 handwritten digits, carried by scikit-learn.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            # The order on disk is that of the source: shuffling is the pipeline's work.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(False), "test": self._generate_examples(True)}

    def _generate_examples(self, test: bool):
        images, labels = load_arrays()
        chosen = is_test(labels) == test
        for i in np.flatnonzero(chosen):
            # Images as PIL objects are encoded without TensorFlow.
            image = Image.fromarray(images[i, :, :, 0], mode="L")
            yield int(i), {"image": image, "label": int(labels[i])}


def load_arrays() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits: uint8 [1797, 8, 8, 1] on the scale 0…255, and int labels [1797]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return images, digits.target.astype(np.int64)


def is_test(labels: np.ndarray) -> np.ndarray:
    """Marks the middle one of every five examples of each class."""
    rank = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    return rank % 5 == 2


def ensure(folder: Path) -> Path:
    """Writes the dataset if it is not there yet; returns the TFDS folder that holds it.

    Safe while other processes do the same: each writes a folder of its own beside the goal and
    renames it, and whoever comes second throws its copy away.

    Args:
      folder: TFDS data folder. One that cannot be written falls back to the user's cache.
    """
    if (folder / NAME / VERSION / "dataset_info.json").is_file():
        return folder
    goal = folder / NAME / VERSION
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".writing-", dir=goal.parent))
    except OSError:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cv_jax" / "tfds"
        if folder == cache:
            raise
        return ensure(cache)
    try:
        builder = Digits(data_dir=scratch, file_format="array_record")
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints two lines and a bar
            tfds.disable_progress_bar()
            builder.download_and_prepare()
        try:
            os.rename(scratch / NAME / VERSION, goal)
        except OSError:
            if not (goal / "dataset_info.json").is_file():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
