# SPDX-License-Identifier: Apache-2.0
"""The prior's tiers on embeddings made by hand, where the right answer is known.

Each of two captions belongs to two pictures, at unit vectors of the plane of two axes
of its own; a least-squares fit answers with their mean, a sampler with either of them.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax
import pytest

from lamd_jax import config as config_lib
from lamd_jax import rng
from lamd_jax import types
from lamd_jax.systems import prior as prior_lib
from lamd_jax.systems import prior_stage

D, LENGTH = 4, 2
TEXTS = np.array([[0.6, 0, 0.8, 0], [0.6, 0, 0, 0.8]], np.float32)
PICTURES = np.array([[[1, 0, 0, 0], [0, 1, 0, 0]], [[0, 0, 1, 0], [0, 0, 0, 1]]])


class Stub:
  """A content encoder whose "frames" hold the picture's number in their first pixel."""

  width, sequence_width, needs = D, D, ("content",)

  def images(self, weights, frames):
    return jnp.asarray(PICTURES.reshape(4, D), jnp.float32)[frames[:, 0, 0, 0]]

  def texts(self, weights, tokens):
    pooled = jnp.asarray(TEXTS)[tokens[:, 0]]
    return pooled, jnp.repeat(pooled[:, None], LENGTH, 1)


class Encoding:
  """What of a diffusion stage the prior's takes: embeddings of all frames."""

  cached_as, encoded_by = "embeddings", ("content",)

  def __init__(self, content):
    self._content = content

  def encode(self, frozen, batch):
    rows, frames = batch.video.shape[:2]
    flat = batch.video.reshape(rows * frames, *batch.video.shape[2:])
    found = self._content.images(frozen, flat).reshape(rows, frames, -1)
    return types.LatentBatch(None, None, batch.index, None, batch.tokens, embedding=found)


def _prior(kind, **changes):
  config = config_lib.defaults()
  config.data.tokens = LENGTH
  config.model.prior = ConfigDict(dict(
    kind=kind, width=16, layers=1, heads=2, levels=100, steps=10, drop=0.2,
    guidance=1.0,
  ))  # fmt: skip
  config.model.prior.update(changes)
  config.optim.prior = config.optim.diffusion.copy_and_resolve_references()
  prior = prior_lib.Prior(config, Stub(), jnp.float32)
  return prior, prior_stage.PriorStage(prior, config, Encoding(Stub()))


def _batch(step, size=64):
  draw = np.random.default_rng(step)
  picture = draw.integers(0, 4, size)
  video = np.broadcast_to(picture[:, None, None, None, None], (size, 2, 2, 2, 3))
  tokens = np.repeat((picture // 2)[:, None], LENGTH, 1).astype(np.int32)
  index = np.arange(step * size, (step + 1) * size, dtype=np.int32)
  return types.VideoBatch(video.astype(np.uint8), index, None, tokens)


def _fit(stage, steps, rate):
  params, extras = stage.init(0)
  optimizer = optax.adam(rate)
  state = optimizer.init(params)
  root = rng.root(0)

  @jax.jit
  def step(params, state, extras, batch, i):
    def loss(params):
      out = stage.forward(params, extras, {}, batch, rng.Streams(root, i), "video")
      return out.losses["prior"], out

    grads, out = jax.grad(loss, has_aux=True)(params)
    changes, state = optimizer.update(grads, state)
    return optax.apply_updates(params, changes), state, out

  for i in range(steps):
    params, state, out = step(params, state, extras, _batch(i), jnp.int32(i))
    extras = out.extras
  return {"prior": {"params": params, "extras": extras}}, out.metrics


def _sample(prior, weights, count=64, seed=1):
  streams = rng.Streams(rng.root(seed), jnp.int32(0))
  tokens = np.repeat((np.arange(count) % 2)[:, None], LENGTH, 1).astype(np.int32)
  draw = jax.jit(prior.sample_embedding)
  rows = draw(weights, streams, np.arange(count, dtype=np.int32), tokens)
  np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-4)
  return np.asarray(rows).reshape(-1, 2, D)  # [draw, caption, D]


def test_the_regressor_answers_with_the_mean():
  prior, stage = _prior("regressor")
  weights, metrics = _fit(stage, 150, 5e-3)
  found = _sample(prior, weights, 2)[0]
  np.testing.assert_allclose(found, PICTURES.mean(1) * 2**0.5, atol=0.1)
  # Half of a picture's square is not explained: 4 entries, each 4/4 scaled.
  assert float(metrics["loss"]) == pytest.approx(0.5, abs=0.05)


@pytest.fixture(scope="module")
def diffusion():
  prior, stage = _prior("diffusion")
  return prior, _fit(stage, 400, 5e-3)[0]


def test_the_diffusion_draws_from_what_fits(diffusion):
  prior, weights = diffusion
  found = _sample(prior, weights, 128)
  for caption in range(2):
    cosines = found[:, caption] @ PICTURES[caption].T  # [draw, 2]
    assert (cosines.max(1) > 0.9).mean() > 0.85
    share = (cosines.argmax(1) == 0).mean()
    assert 0.25 < share < 0.75  # 64 draws; standard error 0.06


def test_draws_depend_on_seed_and_index_alone(diffusion):
  prior, weights = diffusion
  few, many = _sample(prior, weights, 4), _sample(prior, weights, 8)
  np.testing.assert_allclose(few, many[:2], atol=1e-4)
  assert np.abs(_sample(prior, weights, 4, seed=2) - few).max() > 1e-2


def test_guidance_moves_away_from_what_needs_no_caption(diffusion):
  """At guidance 0 the caption is not seen: draws of both captions agree."""
  _, weights = diffusion
  blind = _sample(_prior("diffusion", guidance=0.0)[0], weights, 16, seed=3)
  sharp = _sample(_prior("diffusion", guidance=2.0)[0], weights, 64, seed=3)
  share = lambda rows: np.mean([
    (rows[:, c] @ PICTURES[c].T).max(1) > (rows[:, c] @ PICTURES[1 - c].T).max(1)
    for c in range(2)
  ])
  assert share(blind) < 0.8 < share(sharp)


def test_the_means_run_over_all_batches():
  _, stage = _prior("mean_shift")
  assert stage.averaged == () and stage.init(0)[0] == {"prior": {}}
  weights, _ = _fit(stage, 5, 1e-3)
  picture = np.concatenate([_batch(i).video[:, 0, 0, 0, 0] for i in range(5)])
  extras = weights["prior"]["extras"]
  means = PICTURES.reshape(4, D)[picture].mean(0), TEXTS[picture // 2].mean(0)
  np.testing.assert_allclose(extras["image_mean"], means[0] * 2, atol=1e-5)
  np.testing.assert_allclose(extras["text_mean"], means[1] * 2, atol=1e-5)
