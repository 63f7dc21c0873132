# SPDX-License-Identifier: Apache-2.0
"""Content embeddings: the loss by hand, CLIP's preparation, both kinds, learning."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_prior

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.data import tokenizers
from lamd_jax.evaluation import clip_frames
from lamd_jax.networks import clip_image
from lamd_jax.networks import clip_text
from lamd_jax.nn import initializers
from lamd_jax.systems import content as content_lib
from lamd_jax.systems import content_stage
from lamd_jax.systems import prior as prior_lib
from lamd_jax.systems import prior_stage
from lamd_jax.training import checkpoints
from lamd_jax.training import loop
from lamd_jax.training import preemption
from lamd_jax.training import sharding
from lamd_jax.training import writers

import tiny

COLOURS = {"red": (200, 20, 20), "green": (20, 160, 20), "blue": (20, 20, 200),
           "white": (240, 240, 240)}  # fmt: skip
WORDS = tokenizers.Words(6, 64)
TOKENS = np.stack([WORDS(f"a {name} wall") for name in COLOURS])


def _config(**changes):
  tree = tiny.config().copy_and_resolve_references()
  tree.unlock()
  tree.data.update(tokens=6, vocabulary_size=64, size=16, frames=2)
  tree.model.content.update(
    width=8, image_channels=8, text_width=8, text_layers=1, text_heads=2
  )
  tree.model.prior.update(
    kind="mean_shift", width=16, layers=1, heads=2, levels=100, steps=4
  )
  tree.optim.content.update(steps=40, batch=16, learning_rate=5e-3, ema_decay=0.8)
  tree.update_from_flattened_dict(changes)
  return tree


def _clip(network):
  return {"model.content.encoder": "clip", "model.content.network": network}


class Walls:
  """Clips of one colour each, with noise, and their captions."""

  def __init__(self, batch=16):
    self._batch, self._at = batch, 0

  def __iter__(self):
    return self

  def __next__(self):
    index = np.arange(self._at, self._at + self._batch, dtype=np.int32)
    self._at += self._batch
    draw = np.random.default_rng(self._at)
    chosen = draw.integers(0, 4, self._batch)
    base = np.array(list(COLOURS.values()))[chosen][:, None, None, None]
    noise = draw.integers(-15, 16, (self._batch, 2, 16, 16, 3))
    video = (base + noise).astype(np.uint8)
    return types.VideoBatch(video, index, None, TOKENS[chosen])

  def get_state(self):
    return {"at": self._at}

  def set_state(self, state):
    self._at = state["at"]


def _train(stage, config, workdir, frozen):
  writer = writers.JsonlWriter(workdir / "metrics.jsonl")
  loop.train(
    stage, config=config, workdir=workdir, frozen=frozen, loader=Walls(),
    preview_batch=None, finish_batches=lambda: Walls(),
    mesh=sharding.make_mesh("dp", jax.devices()[:1]), resume="auto",
    stop=preemption.Stop(), writer=writer,
  )  # fmt: skip
  writer.close()
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return checkpoints.load_weights(workdir, "ema"), [json.loads(x) for x in lines]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """The small encoder after forty steps on walls, through the real trainer."""
  config = _config()
  content = content_lib.Content(config, jnp.float32)
  stage = content_stage.ContentStage(content, config)
  workdir = tmp_path_factory.mktemp("content")
  weights, log = _train(stage, config, workdir, {})
  return content, {"content": weights}, log


def test_the_encoder_learns_which_caption_is_whose(trained):
  content, weights, log = trained
  assert log[0]["text_to_image"] < 0.8
  assert log[-1]["text_to_image"] == log[-1]["image_to_text"] == 1
  batch = next(Walls(32))
  images = jax.jit(content.images)(weights, batch.video[:, 0])
  texts, states = jax.jit(content.texts)(weights, TOKENS)
  assert states.shape == (4, 6, content.sequence_width) == (4, 6, 8)
  found = np.asarray(content_lib.nearest(images, texts))
  np.testing.assert_array_equal(TOKENS[found], batch.tokens)


def test_the_preview_shows_what_the_captions_find(trained):
  content, weights, _ = trained
  stage = content_stage.ContentStage(content, _config())
  batch = next(Walls(8))
  preview = jax.jit(lambda params, batch: stage.preview(params, {}, {}, batch, None))
  clips = preview(weights["content"]["params"], batch)
  np.testing.assert_array_equal(clips["input"], batch.video)
  means = lambda video: np.asarray(video).mean((1, 2, 3))
  np.testing.assert_allclose(means(clips["found"]), means(batch.video), atol=3)


def test_the_mean_shift_is_the_difference_of_the_means(trained, tmp_path):
  """Its group is empty: the trainer must carry it, and a resumed run too."""
  content, weights, _ = trained
  config = _config(**{"optim.prior.steps": 2, "optim.prior.batch": 16})
  prior = prior_lib.Prior(config, content, jnp.float32)
  stage = prior_stage.PriorStage(prior, config, test_prior.Encoding(content))
  _train(stage, config, tmp_path, weights)
  (tmp_path / "finished.json").unlink()  # now it is a run that was broken off
  config.optim.prior.steps = 3
  found, _ = _train(stage, config, tmp_path, weights)
  assert int(found["extras"]["batches"]) == 3

  # The same three batches, the frames drawn from the same streams.
  embed = jax.jit(lambda batch, streams: (
    content.images(weights, content_stage.random_frames(batch, streams)),
    content.texts(weights, batch.tokens)[0],
  ))  # fmt: skip
  loader = Walls()
  rows = [
    embed(next(loader), rng.Streams(rng.root(config.seed), jnp.int32(step)))
    for step in range(3)
  ]
  image, text = (np.concatenate(x).mean(0) * 8**0.5 for x in zip(*rows, strict=True))
  np.testing.assert_allclose(found["extras"]["image_mean"], image, atol=1e-5)
  np.testing.assert_allclose(found["extras"]["text_mean"], text, atol=1e-5)

  batch = next(loader)
  pooled = np.asarray(embed(batch, rng.Streams(rng.root(0), jnp.int32(3)))[1])
  moved = pooled * 8**0.5 + image - text
  sampled = jax.jit(lambda tokens: prior.sample_embedding(
    {**weights, "prior": found}, None, batch.index, tokens
  ))(batch.tokens)  # fmt: skip
  np.testing.assert_allclose(
    sampled, moved / np.linalg.norm(moved, axis=1, keepdims=True), atol=1e-5
  )


def test_cross_entropy_by_hand():
  logits = np.log(np.array([[1.0, 2, 1], [4, 2, 2], [1, 1, 6]]))
  tokens = np.array([[1, 5, 2], [1, 6, 2], [1, 5, 2]])
  right = content_stage.same_caption(tokens)
  np.testing.assert_array_equal(right, [[1, 0, 1], [0, 1, 0], [1, 0, 1]])
  loss = content_stage.cross_entropy(jnp.asarray(logits), right)
  # Row 0 shares itself between columns 0 and 2, of probability 1/4 each.
  by_hand = [np.log(4), np.log(4), 0.5 * (np.log(8) + np.log(8 / 6))]
  np.testing.assert_allclose(loss, by_hand, rtol=1e-6)
  # Rows find columns 1, 0 and 2, of which only the last is right.
  share = content_stage.accuracy(jnp.asarray(logits), right)
  assert float(share) == pytest.approx(1 / 3)


def test_another_frame_at_each_visit():
  video = np.arange(8, dtype=np.uint8).reshape(1, 8, 1, 1, 1).repeat(64, 0)
  batch = types.VideoBatch(video, np.arange(64, dtype=np.int32))
  draw = lambda step: np.asarray(
    content_stage.random_frames(batch, rng.Streams(rng.root(0), jnp.int32(step)))
  )
  first = draw(0)
  assert first.shape == (64, 1, 1, 1) and set(first.ravel()) == set(range(8))
  assert (first != draw(1)).any()


@pytest.mark.parametrize("shape", [(16, 24), (300, 260), (224, 224)])
def test_clip_sees_what_pillow_would_show_it(shape):
  """Nearly everywhere exactly, elsewhere within two levels of the eight bits."""
  draw = np.random.default_rng(0)
  frames = draw.integers(0, 256, (1, *shape, 3)).astype(np.uint8)
  ours = np.asarray(content_lib.for_clip(jnp.asarray(frames), 224))
  theirs = clip_frames.prepare(frames, 224)
  levels = np.abs(ours - theirs) * 255 * clip_image.STD
  assert ours.shape == (1, 224, 224, 3)
  # A value near a half may be rounded either way, in either pass.
  assert levels.max() < 2.01 and (levels > 0.5).mean() < 0.01


@pytest.mark.parametrize("network, width", [("l14", 768), ("b32", 512)])
def test_clip_at_full_size_by_shape(network, width):
  config = _config(**_clip(network))
  config.data.tokens = 77
  content = content_lib.Content(config, jnp.float32)
  assert content.imported == content.needs == ("clip_image", "clip_text")
  assert not content.trained and content.width == width
  picture = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  tokens = jax.ShapeDtypeStruct((2, 77), jnp.int32)
  shapes = initializers.shapes
  weights = {
    "clip_image": shapes(content.image_network, picture),
    "clip_text": shapes(content.text_network, tokens),
  }
  frames = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.uint8)
  assert jax.eval_shape(content.images, weights, frames).shape == (2, width)
  pooled, states = jax.eval_shape(content.texts, weights, tokens)
  assert pooled.shape == (2, width)
  assert states.shape == (2, 77, content.sequence_width)


def test_small_clip_gives_unit_rows_of_its_own_features(monkeypatch):
  image = clip_image.ClipImage(8, 1, 2, patch=8, projection=6, size=16)
  text = clip_text.ClipText(20, 8, 1, 2, 6, projection=6)
  monkeypatch.setitem(content_lib.CLIP, "b32", (image, text))
  config = _config(**_clip("b32"))
  content = content_lib.Content(config, jnp.float32)
  frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
  tokens = np.array([[18, 4, 19, 19, 19, 19], [18, 5, 6, 19, 0, 0]], np.int32)
  pictures = clip_frames.prepare(frames, 16)
  weights = {
    "clip_image": initializers.initialize(image, 0, pictures),
    "clip_text": initializers.initialize(text, 1, tokens),
  }
  both = jax.jit(lambda: (
    image.apply(weights["clip_image"], pictures),
    text.apply(weights["clip_text"], tokens),
    content.images(weights, jnp.asarray(frames)),
    *content.texts(weights, tokens),
  ))  # fmt: skip
  features, hidden, images, pooled, states = map(np.asarray, both())
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  np.testing.assert_allclose(images, unit(features), atol=1e-5)
  np.testing.assert_allclose(states, hidden, atol=1e-5)
  kernel = weights["clip_text"]["params"]["projection_kernel"]
  ends = states[[0, 1], [2, 3]] @ kernel  # at each first end token, id 19
  np.testing.assert_allclose(pooled, unit(ends), atol=1e-5)
