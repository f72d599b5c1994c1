"""Distributions of random boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from cv_jax.augment import boxes

SIZE, AREA, RATIO = (400, 500), (0.1, 0.3), (0.5, 2.0)
# Each test rejects a correct implementation for one seed in 1,000; the seeds are fixed.
MIN_PVALUE = 1e-3


def sides(count, size, area, ratio, limit):
    keys = jax.random.split(jax.random.key(0), count)
    draw = jax.jit(jax.vmap(lambda key: boxes.random_sides(key, size, area, ratio, limit)))
    return map(np.asarray, draw(keys))


def test_areas_are_uniform_and_aspects_log_uniform_where_every_box_fits():
    first, second, found = sides(4000, SIZE, AREA, RATIO, SIZE)
    assert found.all()
    share = first * second / (SIZE[0] * SIZE[1])
    assert scipy.stats.kstest(share, scipy.stats.uniform(0.1, 0.2).cdf).pvalue > MIN_PVALUE
    log = np.log2(first / second)
    assert scipy.stats.kstest(log, scipy.stats.uniform(-1, 2).cdf).pvalue > MIN_PVALUE
    assert abs(scipy.stats.spearmanr(share, log).statistic) < 0.06


def test_limits_hold_and_found_is_false_if_no_box_fits():
    first, second, found = sides(500, (20, 20), (0.9, 1.0), (0.5, 2.0), (19, 19))
    assert found.any()
    assert (first[found] <= 19).all()
    assert (second[found] <= 19).all()
    _, _, found = sides(500, (20, 20), (1.0, 1.0), (3.0, 4.0), (20, 20))
    assert not found.any()


def test_corners_are_uniform_over_the_places_where_the_box_fits():
    draw = jax.jit(jax.vmap(lambda key: boxes.random_corner(key, 9, 7, jnp.int32(4), jnp.int32(7))))
    corners = np.asarray(draw(jax.random.split(jax.random.key(1), 3000)))
    assert (corners[:, 1] == 0).all()
    counts = np.bincount(corners[:, 0], minlength=6)
    assert len(counts) == 6
    assert scipy.stats.chisquare(counts).pvalue > MIN_PVALUE


def test_a_mask_is_clipped_at_the_border():
    mask = np.asarray(boxes.mask(4, 5, -1, 3, 3, 9))[..., 0]
    expected = np.zeros((4, 5), bool)
    expected[:2, 3:] = True
    np.testing.assert_array_equal(mask, expected)
