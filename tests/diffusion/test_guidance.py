# SPDX-License-Identifier: Apache-2.0
"""Guidance against its formulas, and what it does not compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import types
from lamd_jax.diffusion import guidance

ROWS, SHAPE = 3, (3, 2, 2, 2, 1)


class Recorder:
  """A denoiser, nonlinear in all its inputs, that notes the rows of each call."""

  def __init__(self, factor):
    self.factor, self.rows = factor, []

  def __call__(self, z, t, conditions):
    self.rows.append(z.shape[0])
    wide = lambda a: a.reshape(-1, 1, 1, 1, 1)
    mask, level = conditions.mask, conditions.noise_level
    keep = conditions.keep or {}
    flag = lambda name: wide(keep.get(name, jnp.ones(z.shape[0])))
    raw = jnp.sin(self.factor * z) * wide(1 + t / 1000)
    if mask is not None:
      raw = raw + jnp.cos(z) * mask * flag("mask")
    if level is not None:
      raw = raw + wide(jnp.sqrt(1 + level.astype(jnp.float32))) * flag("noise_level")
    return raw


def inputs():
  z = jnp.asarray(np.random.default_rng(0).standard_normal(SHAPE), jnp.float32)
  t = jnp.asarray([1.0, 500.0, 999.0])
  mask = jnp.asarray([[1.0, 0], [0, 1], [1, 1]]).reshape(3, 2, 1, 1, 1)
  return z, t, types.Conditions(mask=mask, noise_level=jnp.asarray([3, 100, 249]))


def null_by_none(c):
  return c._replace(mask=jnp.zeros_like(c.mask), noise_level=None)


def null_by_flag(c):
  off = jnp.zeros(c.mask.shape[0])
  return c._replace(keep={"mask": off, "noise_level": off})


@pytest.mark.parametrize("null", [null_by_none, null_by_flag])
@pytest.mark.parametrize("weight", [1.1, 7.5, -1.0])
def test_classifier_free_is_its_formula_in_one_call(null, weight):
  z, t, c = inputs()
  plain, denoise = Recorder(2.0), Recorder(2.0)
  got = guidance.classifier_free(denoise, null, weight)(z, t, c)
  with_c, without = plain(z, t, c), plain(z, t, null(c))
  np.testing.assert_allclose(got, without + weight * (with_c - without), atol=2e-5)
  assert denoise.rows == [2 * ROWS]


def test_guidance_one_is_the_denoiser_itself():
  denoise = Recorder(2.0)
  assert guidance.classifier_free(denoise, null_by_none, 1.0) is denoise
  # Even with rescaling: there is nothing to undo.
  assert guidance.classifier_free(denoise, null_by_none, 1, rescale=0.7) is denoise


def test_guidance_zero_calls_without_conditions_only():
  z, t, c = inputs()
  denoise = Recorder(2.0)
  got = guidance.classifier_free(denoise, null_by_none, 0.0, rescale=0.7)(z, t, c)
  assert denoise.rows == [ROWS]
  np.testing.assert_array_equal(got, denoise(z, t, null_by_none(c)))


def gen1(w, w_t):
  """The three terms of the paper, written out."""
  z, t, c = inputs()
  video, image, null = Recorder(2.0), Recorder(0.5), null_by_none(c)
  m_pi, m_0, m_c = image(z, t, null), video(z, t, null), video(z, t, c)
  return m_pi + w_t * (m_0 - m_pi) + w * (m_c - m_0)


@pytest.mark.parametrize(
  "w, w_t, video_rows, image_rows",
  [
    (7.5, 1.5, [2 * ROWS], [ROWS]),
    (7.5, 1.0, [2 * ROWS], []),  # classifier-free guidance
    (2.0, 2.0, [ROWS], [ROWS]),  # video(null) cancels
    (0.0, 0.0, [], [ROWS]),  # the image model
    (0.0, 0.5, [ROWS], [ROWS]),
    (1.0, 1.0, [ROWS], []),  # off
  ],
)
def test_three_terms(w, w_t, video_rows, image_rows):
  video, image = Recorder(2.0), Recorder(0.5)
  got = guidance.three_term(video, image, null_by_none, w, w_t)(*inputs())
  np.testing.assert_allclose(got, gen1(w, w_t), atol=2e-5)
  assert video.rows == video_rows and image.rows == image_rows


def test_temporal_guidance_one_is_classifier_free():
  video, image = Recorder(2.0), Recorder(0.5)
  three = guidance.three_term(video, image, null_by_none, 4.0, 1.0)(*inputs())
  two = guidance.classifier_free(video, null_by_none, 4.0)(*inputs())
  np.testing.assert_array_equal(three, two)


def test_rows_of_one_example_stay_together():
  # So that a batch sharded over devices is joined without moving rows between them.
  seen = []

  def denoise(z, t, conditions):
    seen.append(t)
    return z

  guidance.classifier_free(denoise, null_by_none, 2.0)(*inputs())
  np.testing.assert_array_equal(seen[0], [1, 1, 500, 500, 999, 999])


def test_rescale_restores_the_conditional_contrast():
  z, t, c = inputs()
  denoise = Recorder(2.0)
  std = lambda a: np.asarray(a).std((1, 2, 3, 4))
  plain = guidance.classifier_free(denoise, null_by_none, 7.5)(z, t, c)
  full = guidance.classifier_free(denoise, null_by_none, 7.5, rescale=1.0)(z, t, c)
  half = guidance.classifier_free(denoise, null_by_none, 7.5, rescale=0.5)(z, t, c)
  target = std(denoise(z, t, c))
  assert np.all(std(plain) > 1.3 * target)
  np.testing.assert_allclose(std(full), target, rtol=1e-5)
  np.testing.assert_allclose(half, (plain + full) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("position, inside", [(99.5, False), (100, True), (601, False)])
def test_interval(position, inside):
  z, _, c = inputs()
  t = jnp.full((ROWS,), float(position))
  guided, unguided = (lambda z, t, c: 2 * z), (lambda z, t, c: 3 * z)
  denoise = jax.jit(guidance.interval(guided, unguided, 100.0, 600.0))
  np.testing.assert_array_equal(denoise(z, t, c), (2 if inside else 3) * z)


def test_free_of_known_shows_the_null_call_nothing_known():
  """Each call's own state, and the weights, written out for two frames."""
  mask = jnp.asarray([1.0, 0.0]).reshape(1, 2, 1, 1, 1)
  z = jnp.arange(2.0).reshape(1, 2, 1, 1, 1) + 1
  project = lambda z, t: jnp.where(mask != 0, 100.0, z)
  seen = []

  def denoise(z, t, conditions):
    seen.append((z[:, :, 0, 0, 0], conditions.keep["mask"]))
    return z * (1 + conditions.keep["mask"].reshape(-1, 1, 1, 1, 1))

  null = lambda c: c._replace(keep={"mask": jnp.zeros(1)})
  guided = guidance.free_of_known(denoise, null, 3.0, mask, project)
  out = guided(z, jnp.ones(1), types.Conditions(mask=mask))[0, :, 0, 0, 0]
  np.testing.assert_array_equal(seen[0][0], [[100, 2], [1, 2]])
  np.testing.assert_array_equal(seen[0][1], [1, 0])
  # Known frame: the null call's answer, 1; the other: 2 + 3 (4 - 2).
  np.testing.assert_allclose(out, [1, 8])
