"""Operations on the stream: how often an example stands in a batch, and in how many views."""

from typing import NamedTuple


class Stream(NamedTuple):
    """What becomes of each example of the shuffled split.

    Attributes:
      repeats: how many positions of the batch it takes, one after the other, each augmented anew.
      views: how many images are made of it at each position.
    """

    repeats: int = 1
    views: int = 1


ONCE = Stream()


def repeat(count: int):
    """Repeated augmentation (Hoffer et al., 2020; Berman et al., 2019, arXiv:1902.05509).

    An example takes `count` positions of the stream, one after the other; batches are cut from it
    as always, so that one which is no multiple of `count` cuts a group. Epochs and steps are
    counted in positions, as in DeiT, so that a run takes as long as without; unlike there, the next
    positions go on in the shuffled split until every example was shown, before it is shuffled anew.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return lambda stream: stream._replace(repeats=count)


def views(count: int):
    """Several images of every example, each cropped, augmented and mixed with draws of its own.

    Batches become [B, count, H, W, C]. An objective that asks for no views learns from each of them
    with the label of the example, averaged (batch augmentation, Hoffer et al., 2020).
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return lambda stream: stream._replace(views=count)


OPERATIONS = {"repeat": repeat, "views": views}
