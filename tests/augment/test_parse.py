"""The augmentation string."""

import pytest

from cv_jax import augment
from cv_jax.augment.stream import ONCE
from cv_jax.errors import InputError


def test_operations_are_sorted_into_stages_in_order():
    parsed = augment.parse(
        "resize(32) | inception_crop(16, method='bicubic')|pad_crop(4)|flip|erase|mixup"
    )
    assert [len(stage) for stage in parsed[1:]] == [1, 1, 0, 0, 2, 1, 1]
    # Operations after a random crop cannot be cached.
    parsed = augment.parse("random_crop(16)|resize(32)")
    assert [len(stage) for stage in parsed[1:]] == [0, 2, 0, 0, 0, 0, 0]
    assert augment.parse("") == (ONCE, *[()] * 7)
    parsed = augment.parse("resize(9)|ten_crop(8)|flips")
    assert [len(stage) for stage in parsed[1:]] == [1, 0, 2, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("string", "message"),
    [
        ("flp", "unknown augmentation 'flp'; did you mean flip?"),
        ("zzzz", "allowed: repeat, views, resize, "),
        ("resize", "missing a required argument: 'size'"),
        ("flip(0.2, 3)", "too many positional arguments; it takes (probability: float = 0.5)"),
        ("flip(chance=1)", "unexpected keyword argument 'chance'"),
        ("flip(2)", "probability must be in 0…1, got 2"),
        ("flip('x')", "'x' is not a number"),
        ("mixup(0)", "alpha must be positive"),
        ("mixup(per='row')", "unknown per 'row'; allowed: batch, example"),
        ("pad_crop(-1)", "must not be negative"),
        ("pad_crop(1, 'wrap')", "unknown mode 'wrap'; allowed: constant"),
        ("resize(0)", "size must be positive"),
        ("resize(8, 'cubic')", "unknown method 'cubic'; allowed: nearest"),
        ("inception_crop(8, 0.5, 0.2)", "0 < min_area <= max_area <= 1"),
        ("flip|resize(3)", "resize(3) is a host operation and must stand before flip"),
        ("flips|resize(3)", "resize(3) is a host operation and must stand before flips"),
        ("multi_scale(())", "sizes must have 1…1000 values, got 0"),
        ("multi_scale((8, 0))", "size must be positive"),
        ("mixup|flip", "flip is an image operation and must stand before mixup"),
        ("erase|flip", "flip is an image operation and must stand before erase"),
        ("mixup|cutout(4)", "cutout(4) is an erasing operation and must stand before mixup"),
        ("rotate(10, 'cubic')", "unknown method 'cubic'; allowed: nearest, bilinear, bicubic"),
        ("rotate(10, fill=300)", "fill must be in 0…255, got 300"),
        ("translate(2)", "fraction must be in 0…1, got 2"),
        ("brightness(9)", "strength must be in 0…6, got 9"),
        ("hue(0.7)", "hue must be in 0…0.5, got 0.7"),
        ("posterise(9)", "bits must be in 0…8, got 9"),
        ("gaussian_blur(2, 1)", "radii must be 0 < smallest <= largest, got 2.0, 1.0"),
        ("random_resized_crop(0.5, 0.2)", "0 < min_area <= max_area <= 1"),
        ("random_resized_crop(method='nearest')", "unknown method 'nearest'; allowed: bilinear"),
        ("randaugment(0)", "num_layers must be in 1…100, got 0"),
        ("randaugment(2, 11)", "magnitude must be in 0…10, got 11"),
        ("autoaugment('mnist')", "unknown policy 'mnist'; allowed: imagenet, cifar10, svhn"),
        ("cutmix(0)", "alpha must be positive, got 0"),
        ("mixup_or_cutmix(switch_probability=3)", "switch_probability must be in 0…1, got 3"),
        ("erase(mode='noise')", "unknown mode 'noise'; allowed: constant, channel, pixel"),
        ("erase(count=0)", "count must be in 1…100, got 0"),
        ("cutout(0)", "size must be positive, got 0"),
        ("f(", "is not of the form"),
        ("flip(open('x'))", "is not of the form"),
        ("__import__('os').getcwd()", "is not of the form"),
    ],
)
def test_errors_are_one_line(string, message):
    with pytest.raises(InputError) as caught:
        augment.parse(string)
    assert message in str(caught.value)
    assert str(caught.value).startswith("config.augment: ")
    assert "\n" not in str(caught.value)
