# SPDX-License-Identifier: Apache-2.0
"""PSNR by hand, SSIM against scikit-image's numbers, LPIPS against its own function."""

import jax
import numpy as np
import pytest

from lamd_jax.errors import DataError
from lamd_jax.evaluation import features
from lamd_jax.evaluation import image_quality
from lamd_jax.networks import perceptual


def _clips():
  # As fixtures/metrics/make.py makes them.
  draw = np.random.RandomState(0)
  smooth = np.cumsum(draw.standard_normal((2, 3, 21, 26, 3)), 2)
  a = np.clip(128 + 30 * smooth, 0, 255).astype(np.uint8)
  noise = draw.randint(-40, 41, a.shape)
  return a, np.clip(a + noise, 0, 255).astype(np.uint8)


def test_psnr_by_hand():
  a = np.zeros((2, 3, 4, 4, 3), np.uint8)
  b = a.copy()
  b[0, 0], b[0, 1] = 5, 10  # 34.1514 and 28.1308 dB; the third frame is identical
  found = image_quality.psnr(a, b)
  np.testing.assert_allclose(found.clips, [31.1411, np.inf], atol=1e-4)
  assert found.identical_frames == 4
  # Pooled over the clip it is another number, as the docstring says.
  assert features.psnr(a[:1, :2], b[:1, :2])[0] < found.clips[0]


@pytest.mark.parametrize("name", ["ssim", "ssim_skimage7"])
def test_ssim_is_that_of_scikit_image(fixtures, name):
  recorded = np.load(fixtures / "metrics" / "ssim.npz")
  a, b = _clips()
  flavours = {f: getattr(image_quality, f)(a, b) for f in recorded.files}
  np.testing.assert_allclose(flavours[name], recorded[name], rtol=1e-9)
  other = next(f for f in recorded.files if f != name)
  assert np.abs(flavours[other] - recorded[name]).min() > 1e-4
  np.testing.assert_allclose(getattr(image_quality, name)(a, a), 1)


def test_lpips_is_a_mean_over_frames():
  rng = np.random.default_rng(0)

  def draw(shape):  # a VGG16 of 4 channels
    cut = shape.shape if len(shape.shape) < 5 else (*shape.shape[:3], 4, 4)
    return np.abs(rng.standard_normal([min(n, 4) for n in cut])).astype(np.float32)

  params = jax.tree.map(draw, perceptual.shapes())
  first = params["features"]["0"]
  first["kernel"] = first["kernel"][..., :3, :]
  a, b = (x[:, :2, :16, :16] for x in _clips())
  scale = lambda x: x.astype(np.float32) / 127.5 - 1
  found = image_quality.lpips(params, a, b, batch=3)
  pairs = zip(scale(a), scale(b))
  expected = [np.mean(perceptual.distance(params, x, y)) for x, y in pairs]
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  assert found.shape == (2,) and found.min() > 0


def test_what_is_no_pair_is_refused():
  a, b = _clips()
  for x, y in ((a, b[:1]), (a.astype(np.float32), b), (a[0], b[0])):
    with pytest.raises(DataError, match="pairs of uint8"):
      image_quality.psnr(x, y)
  with pytest.raises(DataError, match="11 pixels or more"):
    image_quality.ssim(a[:, :, :8], b[:, :, :8])
