"""The embedded default dataset: handwritten digits, as a TFDS dataset.

The 1,797 8×8 images included in scikit-learn are the test set of the UCI "Optical recognition of
handwritten digits" dataset (Alpaydin and Kaynak, 1998; 17 grey levels). In each class, the third of
every five images is a test image: a stratified split of 1,438 training and 359 test images.
"""

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class Digits(tfds.core.GeneratorBasedBuilder):
    """8×8 grey images of the digits 0 to 9; splits `train` and `test`."""

    name = "digits"
    VERSION = tfds.core.Version("1.0.0")

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
            # Keep the order of the source: the pipeline shuffles.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(False), "test": self._generate_examples(True)}

    def _generate_examples(self, test: bool):
        images, labels = load_arrays()
        chosen = is_test(labels) == test
        for i in np.flatnonzero(chosen):
            # TFDS encodes PIL images without TensorFlow.
            image = Image.fromarray(images[i, :, :, 0], mode="L")
            yield int(i), {"image": image, "label": int(labels[i])}


def load_arrays() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits: uint8 [1797, 8, 8, 1] in 0…255, and int64 labels [1797]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return images, digits.target.astype(np.int64)


def is_test(labels: np.ndarray) -> np.ndarray:
    """Return the mask of test examples: the third of every five examples of each class."""
    rank = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    return rank % 5 == 2
