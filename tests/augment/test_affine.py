"""Affine maps compared with Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pillow import affine as reference
from pillow import to_array, to_pillow

from cv_jax.augment import affine

RUN = jax.jit(affine.affine, static_argnames=("method", "fill"))


def matrices(height, width, generator):
    """Random shears, translations and rotations over the whole allowed range."""
    place = generator.uniform(-1, 1, 3)
    return [
        affine.shear(place[0], 0.0),
        affine.shear(0.0, place[1]),
        affine.shear(place[0], place[1]),
        affine.translation(place[0] * width, place[1] * height),
        affine.rotation(180 * place[2], height, width),
    ]


def undecided(matrix, shape, method):
    """Mask of pixels on which single and double precision (Pillow) may disagree: samples close to
    the image border, or, for "nearest", close to the border between two pixels."""
    a, b, c, d, e, f = np.asarray(matrix, float)
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    places = np.stack([a * x + b * y + c, d * x + e * y + f])
    edges = np.round(places) if method == "nearest" else np.array([shape[1], shape[0]])
    edges = edges if method == "nearest" else np.where(places < 1, 0, edges[:, None, None])
    return (np.abs(places - edges) < 2e-3).any(axis=0)


@pytest.mark.parametrize("method", affine.METHODS)
@pytest.mark.parametrize(("shape", "fill"), [((24, 31, 3), (9, 130, 255)), ((40, 40, 1), 17)])
def test_samples_are_within_one_grey_level(method, shape, fill):
    generator = np.random.default_rng(0)
    compared = 0
    for _ in range(6):
        image = generator.integers(0, 256, shape)
        for matrix in matrices(*shape[:2], generator):
            want = to_array(reference(to_pillow(image), list(map(float, matrix)), method, fill))
            got = np.asarray(RUN(jnp.asarray(image, jnp.int32), matrix, method=method, fill=fill))
            decided = ~undecided(matrix, shape, method)
            compared += decided.mean() / 30
            tolerance = 0 if method == "nearest" else 1
            np.testing.assert_allclose(got[decided], want[decided], atol=tolerance, rtol=0)
    assert compared > 0.98


@pytest.mark.parametrize("method", affine.METHODS)
def test_whole_pixels_move_unchanged(method):
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (9, 14, 5)), jnp.int32)
    np.testing.assert_array_equal(RUN(image, affine.translation(0.0, 0.0), method=method), image)
    moved = RUN(image, affine.translation(3.0, -2.0), method=method, fill=7)
    np.testing.assert_array_equal(moved[2:, :-3], image[:-2, 3:])
    assert (moved[:2] == 7).all()
    assert (moved[:, -3:] == 7).all()


def test_rotation_matches_pillow():
    image = np.random.default_rng(0).integers(0, 256, (20, 33, 3))
    for degrees in (-170.0, -30.0, 12.5, 90.5):
        got = RUN(
            jnp.asarray(image, jnp.int32),
            affine.rotation(jnp.float32(degrees), 20, 33),
            method="bilinear",
        )
        want = to_array(to_pillow(image).rotate(degrees, 2))
        off = np.abs(np.asarray(got) - want).max(axis=-1)
        assert (off > 1).mean() < 0.005  # pixels on the border of the rotated image


def test_fill_needs_one_level_per_channel():
    with pytest.raises(
        ValueError, match=r"fill=\(1, 2, 3\) has 3 values, the image has 1 channels"
    ):
        RUN(jnp.zeros((4, 4, 1), jnp.int32), jnp.ones(6), method="nearest", fill=(1, 2, 3))
