# SPDX-License-Identifier: Apache-2.0
"""Resizes against jax.image, by hand, and LVDM's recorded preprocessing."""

import jax
import numpy as np
import pytest

from lamd_jax.evaluation import resize


@pytest.mark.parametrize("flavour, antialias", [("half_pixel", False), ("half_pixel_aa", True)])  # fmt: skip
@pytest.mark.parametrize("length, size", [(40, 224), (97, 32), (16, 16)])
def test_half_pixel_flavours_are_those_of_jax(flavour, antialias, length, size):
  x = np.random.default_rng(0).uniform(0, 255, (length, 1)).astype(np.float32)
  expected = jax.image.resize(x, (size, 1), "linear", antialias=antialias)
  found = resize.FLAVOURS[flavour](length, size) @ x
  np.testing.assert_allclose(found, expected, atol=1e-3)


def test_legacy_by_hand():
  # Output i looks at i * 2/4; the last pixel is repeated beyond itself.
  expected = [[1, 0], [0.5, 0.5], [0, 1], [0, 1]]
  np.testing.assert_array_equal(resize.tf1_legacy(2, 4), expected)
  # A flat picture stays flat under each flavour, and the flavours differ.
  for flavour in resize.FLAVOURS.values():
    np.testing.assert_allclose(flavour(64, 224).sum(1), 1)
  assert np.abs(resize.tf1_legacy(64, 224) - resize.half_pixel(64, 224)).max() > 0.3


def test_centre_takes_the_middle():
  # 12x20 to a short side of 6: 6x10, of which columns 2 to 8.
  rows, columns = resize.matrices(12, 20, 6, "half_pixel", "centre")
  np.testing.assert_allclose(rows, resize.half_pixel(12, 6))
  np.testing.assert_allclose(columns, resize.half_pixel(20, 10)[2:8])
  rows, columns = resize.matrices(12, 20, 6, "half_pixel", "squash")
  np.testing.assert_allclose(columns, resize.half_pixel(20, 6), rtol=1e-6)
  # 15 * 6 / 12 = 7.5 is rounded up.
  _, columns = resize.matrices(12, 15, 6, "half_pixel", "centre")
  np.testing.assert_allclose(columns, resize.half_pixel(15, 8)[1:7], rtol=1e-6)


def test_preprocessing_is_that_of_lvdm(fixtures):
  z = np.load(fixtures / "lvdm" / "lvdm_fvd.npz")
  x = np.asarray(resize.to_network(z["vid"], 224, "half_pixel", "squash"))
  assert x.shape == (1, 4, 224, 224, 3)
  assert x.sum(dtype=np.float64) == pytest.approx(float(z["preprocessed_sum"]), rel=1e-4)
  patch = x.transpose(0, 4, 1, 2, 3)[..., ::28, ::28]
  np.testing.assert_allclose(patch, z["preprocessed_patch"], atol=1e-5)
