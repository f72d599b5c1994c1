"""Operations on the stream of examples: repeats and views."""

from typing import NamedTuple


class Stream(NamedTuple):
    """Repeats and views of each example of the shuffled split.

    Attributes:
      repeats: number of consecutive positions per example, each augmented independently.
      views: number of images per position.
    """

    repeats: int = 1
    views: int = 1


ONCE = Stream()


def repeat(count: int):
    """Repeated augmentation (Hoffer et al., 2020; Berman et al., 2019, arXiv:1902.05509).

    An example takes `count` consecutive positions of the stream. If the batch size is not a
    multiple of `count`, a group may span two batches. Epochs and steps count positions, as in DeiT,
    so the length of a run does not change. Unlike DeiT, every example of the split is shown before
    the split is shuffled again.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return lambda stream: stream._replace(repeats=count)


def views(count: int):
    """Several images per example, each cropped, augmented and mixed with independent draws.

    Batches become [B, count, H, W, C]. An objective without views treats each image as an example
    with the same label and averages the loss (batch augmentation, Hoffer et al., 2020).
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return lambda stream: stream._replace(views=count)


OPERATIONS = {"repeat": repeat, "views": views}
