"""Tests of the digits on a canvas."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from cv_jax.data import canvas, digits, embedded


@pytest.fixture(scope="module")
def examples():
    return canvas.examples("test")


def test_each_source_digit_is_placed_twice_in_its_box(examples):
    images, labels = digits.load_arrays()
    chosen = np.flatnonzero(digits.is_test(labels))
    assert [x.label for x in examples] == np.tile(labels[chosen], 2).tolist()
    outside = []
    for example in examples:
        top, left, height, width = example.box
        assert height == width
        assert 18 <= height <= 28
        assert 0 <= top <= 64 - height
        assert 0 <= left <= 64 - width
        canvas_ = example.image.astype(float)
        inside = canvas_[top : top + height, left : left + width]
        rest = np.ones((64, 64), bool)
        rest[top : top + height, left : left + width] = False
        outside.append(canvas_[rest].mean())
        assert np.sort(inside.ravel())[-20:].mean() > np.sort(canvas_[rest])[-20:].mean()
    # The background is noise around 60; clipping at 0 raises the mean a little.
    np.testing.assert_allclose(np.mean(outside), 60.5, atol=1)


def test_places_are_random_and_repeatable(examples):
    places = np.array([x.box[:2] for x in examples])
    assert places.std(axis=0).min() > 8
    again = canvas.examples("test")
    assert all(
        (a.image == b.image).all() and a.box == b.box for a, b in zip(examples, again, strict=True)
    )


@pytest.mark.slow
def test_the_dataset_has_the_examples(tmp_path, examples):
    folder = embedded.ensure("digits_canvas", tmp_path)
    source = tfds.builder("digits_canvas", data_dir=folder).as_data_source("test")
    assert len(source) == len(examples) == 718
    for i in (0, 100, 717):
        found = source[i]
        np.testing.assert_array_equal(found["image"][..., 0], examples[i].image)
        assert found["label"] == examples[i].label
        assert tuple(found["box"]) == examples[i].box
