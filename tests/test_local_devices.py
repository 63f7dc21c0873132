# SPDX-License-Identifier: Apache-2.0
"""Clips are the same on one device and on several; each device makes its share."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import tiny

from lamd_jax import api
from lamd_jax import types
from lamd_jax.data import pipeline
from lamd_jax.local_devices import LocalDevices


@pytest.fixture(scope="module")
def models():
  """The same weights on one device, and on all eight."""
  return [tiny.model(tiny.config(train__mesh=mesh)) for mesh in ("one", "dp")]


@pytest.mark.parametrize(
  ["count", "each", "expected"],
  [(1, 16, 1), (3, 16, 3), (8, 16, 8), (9, 16, 16), (16, 1, 8), (100, 4, 32),
   (20, 4, 24)],  # fmt: skip
)
def test_rows_at_once_are_as_many_on_each_device(count, each, expected):
  assert LocalDevices(dict, "dp").at_once(count, each) == expected  # of 8 devices
  assert LocalDevices(dict, "one").at_once(count, each) == min(count, each)


def _same(found, expected):
  """Equal but for roundings: programs of other batches round elsewhere."""
  difference = np.abs(found.astype(int) - expected)
  assert difference.max() <= 1 and (difference > 0).mean() < 0.01


@pytest.mark.parametrize("n", [3, 9])
def test_clips_do_not_depend_on_the_number_of_devices(models, n):
  one, all_ = (
    np.stack([c.frames for c in m.generate(n, seed=3, steps=2)]) for m in models
  )
  assert one.shape == all_.shape == (n, 4, 16, 16, 3) and one.std() > 1
  _same(all_, one)


_GEN1 = dict(stages=("autoencoder", "content", "structure_levels"))


@pytest.mark.parametrize(
  ["config", "changes", "knobs"],
  [
    (tiny.lamd_config, {}, {"text": ["a cone rotates", ""]}),
    (tiny.gen1_config, _GEN1, {"structure_level": 1, "start": "input", "strength": 0.6}),
    (tiny.gen1_config, _GEN1, {"mask": "instance:1", "seed": [4, 5, 6]}),
  ],
)
def test_images_and_edits_are_cut_with_their_clips(config, changes, knobs):
  one, all_ = (
    tiny.model(config(train__mesh=mesh, **changes)) for mesh in ("one", "dp")
  )
  generator = np.random.default_rng(0)
  shaken = jax.tree.map(
    lambda x: x + 0.1 * generator.standard_normal(x.shape).astype(x.dtype), one.weights
  )
  made = []
  for model in (one, all_):
    model = api.Model(model.config, shaken)
    clips = model.generate(3, steps=2, **{"seed": 4, **knobs})
    made.append(np.stack([clip.frames for clip in clips]))
  _same(made[1], made[0])


def test_each_device_computes_its_rows_alone(models):
  _, model = models
  latents = np.zeros((16, *model.system.latent_shape), np.float32)
  with model.devices.placed((latents, types.Prompt())) as (weights, rows):
    made = jax.jit(model.system.decode)(weights, *rows)
  shares = {shard.device.id: shard.data.shape[0] for shard in made.addressable_shards}
  assert shares == dict.fromkeys(range(8), 2)


def test_exchanged_weights_are_noticed():
  weights = {"a": jax.numpy.zeros(2)}
  devices = LocalDevices(lambda: weights, "dp")
  read = lambda: devices.in_chunks(lambda w, x: x + w["a"], np.zeros((8, 2)), 1)
  assert not read().any()
  weights["a"] = jax.numpy.ones(2)
  assert read().all()


def test_one_clip_leaves_the_other_devices_free(models):
  _, model = models
  with model.devices.placed(np.zeros((1, 2))) as (weights, _):
    leaves = jax.tree.leaves(weights)
  assert all(leaf.devices() == {jax.devices()[0]} for leaf in leaves)


def test_what_is_computed_in_chunks_keeps_its_order(models):
  data = models[0].config.data
  clips = pipeline.clips(data, data.eval_split, 10, 0)
  _same(models[1].reconstruct(clips, 1), models[0].reconstruct(clips, 4))


def test_steps_are_told_in_order_from_several_devices(models):
  heard = ([], [])
  made = [
    model.generate(
      3, seed=3, steps=4, callback=lambda *told, to=to: to.append(told)
    )  # fmt: skip
    for model, to in zip(models, heard, strict=True)
  ]
  for one, all_ in zip(*made, strict=True):
    _same(all_.frames, one.frames)
  assert [told[:2] for told in heard[1]] == [(i, 4) for i in range(4)]
  for one, all_ in zip(*heard, strict=True):
    np.testing.assert_allclose(all_[2], one[2], rtol=1e-4, atol=1e-4)
