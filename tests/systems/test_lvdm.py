# SPDX-License-Identifier: Apache-2.0
"""LVDM's stages inside the real trainer: exact resume, other meshes, accumulation."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import command_line
from lamd_jax import rng
from lamd_jax import types
from lamd_jax.data import pipeline
from lamd_jax.systems import lvdm
from lamd_jax.training import checkpoints
from lamd_jax.training import loop
from lamd_jax.training import preemption
from lamd_jax.training import sharding
from lamd_jax.training import writers

import tiny

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def _train(config, name, workdir, frozen, devices=1, preset="dp", resume="auto"):
  """Trains one stage; returns {"params", "extras"} and the logged losses."""
  system = lvdm.LVDM(config)
  stage = next(s for s in system.stages() if s.name == name)
  optim = config.optim[name]
  loader = pipeline.loader(
    config.data, split="train", batch=optim.batch, seed=config.seed
  )
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
  """An autoencoder trained with its critic for six steps, in one go, on one device."""
  workdir = tmp_path_factory.mktemp("autoencoder")
  weights, log = _train(tiny.config(), "autoencoder", workdir, {})
  return workdir, weights, log


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
  """The same on eight devices, parameters cut."""
  workdir = tmp_path_factory.mktemp("sharded")
  return workdir, *_train(tiny.config(), "autoencoder", workdir, {}, 8, "fsdp")


@pytest.mark.parametrize("devices, preset", [(1, "dp"), (8, "fsdp")])
def test_autoencoder_resumes_bit_exactly(tmp_path, request, devices, preset):
  name = "autoencoder" if devices == 1 else "sharded"
  _, whole, _ = request.getfixturevalue(name)
  half = tiny.config(optim__autoencoder__steps=3)
  _train(half, "autoencoder", tmp_path / "h", {}, devices, preset)
  # The three-step run is finished; as a broken-off one it has no such mark.
  (tmp_path / "h" / "finished.json").unlink()
  resumed, _ = _train(
    tiny.config(), "autoencoder", tmp_path / "h", {}, devices, preset, "must"
  )
  _assert_equal(whole["params"], resumed["params"])
  _assert_equal(whole["extras"], resumed["extras"])


def test_another_mesh_gives_the_same_losses(autoencoder, sharded):
  for ours, theirs in zip(autoencoder[2], sharded[2], strict=True):
    for key in ("nll", "g", "critic"):
      assert theirs[key] == pytest.approx(ours[key], rel=1e-5), (key, ours["step"])


def test_the_critic_starts_at_its_step(autoencoder):
  values = [line["critic"] for line in autoencoder[2]]
  assert values[:2] == [0, 0] and all(v > 0 for v in values[2:])


def test_latents_are_standardised_by_what_finish_measured(autoencoder):
  workdir, _, _ = autoencoder
  weights = {"autoencoder": checkpoints.load_weights(workdir, "ema")}
  config = tiny.config()
  stage = lvdm.DiffusionStage(lvdm.LVDM(config))
  video = pipeline.clips(config.data, "train", 32, 0)
  batch = types.VideoBatch(video, np.arange(32, dtype=np.int32))
  streams = rng.Streams(rng.root(0), jnp.int32(0))
  z = jax.jit(stage._latents)(weights, batch, streams)
  # Measured on 8 other clips: near 0 and 1, not at them.
  assert abs(float(z.mean())) < 0.3 and 0.7 < float(z.std()) < 1.3


def test_diffusion_resumes_and_accumulates(tmp_path, autoencoder):
  frozen = {"autoencoder": checkpoints.load_weights(autoencoder[0], "ema")}
  whole, log = _train(tiny.config(), "diffusion", tmp_path / "w", frozen)
  half = tiny.config(optim__diffusion__steps=3)
  _train(half, "diffusion", tmp_path / "h", frozen)
  (tmp_path / "h" / "finished.json").unlink()
  resumed, _ = _train(tiny.config(), "diffusion", tmp_path / "h", frozen)
  _assert_equal(whole["params"], resumed["params"])
  parts = tiny.config(optim__diffusion__accumulate=4)
  _, log_parts = _train(parts, "diffusion", tmp_path / "a", frozen)
  for a, b in zip(log, log_parts, strict=True):
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


# Source: the released configurations, counted with the reference implementation.
@pytest.mark.parametrize(
  "name, stage, group, count",
  [
    ("lvdm_sky", "autoencoder", "generator", 19_446_759),
    ("lvdm_sky", "diffusion", "denoiser", 548_904_580),
    ("lvdm_sky_long", "prediction", "denoiser", 549_163_908),
    ("lvdm_sky_long", "interpolation", "denoiser", 549_181_060),
    ("lvdm_webvid", "autoencoder", "generator", 83_653_863),
    ("lvdm_webvid", "diffusion", "denoiser", 958_924_964),
  ],
)
def test_full_sizes(name, stage, group, count):
  """Published parameter counts, by shape alone (lvdm.md: sections 2 and 3.3)."""
  config = command_line.load_config(f"{CONFIGS / name}.py").unlock()
  config.model.perceptual.weights = "none"
  stages = {s.name: s for s in lvdm.LVDM(config.lock()).stages()}
  shapes = jax.tree.leaves(stages[stage].init(None)[0][group])
  assert sum(x.size for x in shapes) == count
