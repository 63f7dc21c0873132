# SPDX-License-Identifier: Apache-2.0
"""LaMD's stages inside the real trainer: exact resume, other meshes, statistics."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.data import pipeline
from lamd_jax.systems import lamd
from lamd_jax.training import checkpoints
from lamd_jax.training import loop
from lamd_jax.training import preemption
from lamd_jax.training import sharding
from lamd_jax.training import writers

import tiny

AUTOENCODER, GENERATOR = "motion_autoencoder", "motion_diffusion"


def _train(config, name, workdir, frozen, devices=1, preset="dp", resume="auto"):
  """Trains one stage; returns {"params", "extras"} and the logged losses."""
  stage = next(s for s in lamd.LaMD(config).stages() if s.name == name)
  batch = config.optim[name].batch
  loader = pipeline.loader(config.data, split="train", batch=batch, seed=config.seed)
  writer = writers.JsonlWriter(workdir / "metrics.jsonl")
  try:
    loop.train(
      stage,
      config=config,
      workdir=workdir,
      frozen=frozen,
      loader=loader,
      preview_batch=None,
      finish_batches=lambda: iter(
        pipeline.loader(config.data, split="train", batch=8, seed=1)
      ),
      mesh=sharding.make_mesh(preset, jax.devices()[:devices]),
      resume=resume,
      stop=preemption.Stop(),
      writer=writer,
      min_shard_bytes=1,
    )
  finally:
    loader.close()
    writer.close()
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return checkpoints.load_weights(workdir, "raw"), [json.loads(x) for x in lines]


def _assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
  """Trained for six steps with its critic, beta held by the controller."""
  workdir = tmp_path_factory.mktemp("motion_autoencoder")
  config = tiny.lamd_config(loss__beta_mode="pid", loss__kl_target=1.0)
  return workdir, *_train(config, AUTOENCODER, workdir, {})


def test_the_autoencoder_resumes_bit_exactly(tmp_path, autoencoder):
  options = dict(loss__beta_mode="pid", loss__kl_target=1.0)
  half = tiny.lamd_config(**options, optim__motion_autoencoder__steps=3)
  _train(half, AUTOENCODER, tmp_path, {})
  (tmp_path / "finished.json").unlink()  # as if it had been broken off
  resumed, _ = _train(
    tiny.lamd_config(**options), AUTOENCODER, tmp_path, {}, resume="must"
  )
  _assert_equal(autoencoder[1], resumed)


@pytest.mark.slow
def test_another_mesh_gives_the_same_losses(tmp_path, autoencoder):
  config = tiny.lamd_config(loss__beta_mode="pid", loss__kl_target=1.0)
  _, log = _train(config, AUTOENCODER, tmp_path, {}, 8, "fsdp")
  for ours, theirs in zip(autoencoder[2], log, strict=True):
    for key in ("nll", "kl_nats", "beta", "critic"):
      assert theirs[key] == pytest.approx(ours[key], rel=2e-4, abs=1e-7), key


def test_what_is_logged_and_the_critic_s_start(autoencoder):
  log = autoencoder[2]
  assert [line["critic"] > 0 for line in log] == [False, False, True, True, True, True]
  for line in log:
    assert line["kl_per_element"] == pytest.approx(line["kl_nats"] / (4 * 4 * 2), rel=1e-5)
    assert 0 <= line["active_channels"] <= 2 and 0 <= line["beta"] <= 1


def test_finish_measures_statistics_that_standardise(autoencoder):
  weights = {AUTOENCODER: checkpoints.load_weights(autoencoder[0], "ema")}
  extras = weights[AUTOENCODER]["extras"]
  assert extras["latent_mean"].shape == extras["latent_variance"].shape == (2,)
  config = tiny.lamd_config()
  system = lamd.LaMD(config)
  stage = system.stages()[1]
  video = pipeline.clips(config.data, "train", 32, 0)
  batch = types.VideoBatch(video, np.arange(32, dtype=np.int32))
  found = jax.jit(stage.encode)(weights, batch)
  noise = np.random.default_rng(0).standard_normal(found.mean.shape)
  raw = found.mean + np.exp(0.5 * found.log_variance) * noise
  z = np.asarray(system.to_latent(extras, raw))
  # Measured on 8 other clips: near 0 and 1, not at them.
  assert np.abs(z.mean((0, 1, 2, 3))).max() < 0.4
  assert 0.6 < z.std((0, 1, 2, 3)).min() and z.std((0, 1, 2, 3)).max() < 1.5
  np.testing.assert_array_equal(found.image, video[:, :1])


@pytest.mark.parametrize("kind", ["none", "layer", "l2"])
def test_other_normalisations_are_scaled_by_what_finish_measured(kind):
  config = tiny.lamd_config(model__motion__normalization=kind)
  stage = lamd.LaMD(config).stages()[0]
  params, extras = stage.init(0)
  video = pipeline.clips(config.data, "train", 8, 0)
  batch = types.VideoBatch(video, np.arange(8, dtype=np.int32))
  extras = stage.finish(params, extras, {}, iter([batch]))
  raw = jax.jit(stage.encode_draw)(params["generator"], batch)
  z = np.asarray(lamd.LaMD(config).to_latent(extras, raw))
  assert abs(z.mean()) < 1e-4 and z.std() == pytest.approx(1, rel=1e-3)


def test_diffusion_resumes_and_leaves_the_autoencoder_alone(tmp_path, autoencoder):
  frozen = {AUTOENCODER: checkpoints.load_weights(autoencoder[0], "ema")}
  before = jax.tree.map(np.copy, frozen)
  whole, _ = _train(tiny.lamd_config(), GENERATOR, tmp_path / "w", frozen)
  half = tiny.lamd_config(optim__motion_diffusion__steps=3)
  _train(half, GENERATOR, tmp_path / "h", frozen)
  (tmp_path / "h" / "finished.json").unlink()
  resumed, _ = _train(tiny.lamd_config(), GENERATOR, tmp_path / "h", frozen)
  _assert_equal(whole, resumed)
  _assert_equal(before, frozen)
  # Every group learns: none is cut off from the loss.
  stage = lamd.LaMD(tiny.lamd_config()).stages()[1]
  first = stage.init(0)[0]
  for group in stage.groups:
    largest = lambda a, b: np.abs(a - b).max()
    moved = jax.tree.map(largest, first[group], whole["params"][group])
    assert max(jax.tree.leaves(moved)) > 0, group


def test_lpips_on_some_frames_is_an_unbiased_share_of_all(monkeypatch):
  """Each frame is as likely as any other, and the sum is scaled up to all of them."""
  config = tiny.lamd_config(
    loss__perceptual_frames=2, loss__reconstruction="l1",
    model__perceptual__weights="given",
  )  # fmt: skip
  stage = lamd.LaMD(config).stages()[0]
  # A "perceptual" distance that tells which frame it saw: the frame's number.
  monkeypatch.setattr(
    stage, "_perceptual", lambda frozen: lambda a, b: a[..., 0].mean((2, 3))
  )
  number = jnp.arange(6.0)[None, :, None, None, None]
  x = jnp.broadcast_to(number, (64, 6, 4, 4, 3))
  streams = lambda step: rng.Streams(rng.root(0), step)
  run = jax.jit(lambda i: stage._distance(x, {}, jnp.arange(64), streams(i))(x))
  values = [float(run(jnp.int32(i))) for i in range(40)]
  # L1 is 0; the mean of the frames' numbers 0..5 is 2.5.
  assert np.mean(values) == pytest.approx(2.5, abs=0.1)
