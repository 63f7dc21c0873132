# SPDX-License-Identifier: Apache-2.0
"""Every key and shape of the released UNets has one place in ours, at full size."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import config
from lamd_jax import types
from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import lvdm_unet
from lamd_jax.nn import initializers
from lamd_jax.systems import lvdm_blocks

T2V = dict(
  channels=320,
  channel_mult=(1, 2, 4, 4),
  res_blocks=2,
  attention_downsample=(1, 2, 4),
  heads=8,
  temporal_length=16,
  scale_shift_norm=False,
  transformer=True,
)
# Settings beside the defaults, channels that enter, parameters (as PyTorch counts).
RELEASES = {
  "unet_sky_short": ({}, 4, 548_904_580),
  "unet_sky_pred": ({"noise_level_classes": 251}, 5, 549_163_908),
  "unet_sky_interp": (
    {"noise_level_classes": 251, "temporal_length": 5},
    5,
    549_181_060,
  ),
  "unet_t2v": (T2V, 4, 958_924_964),
}


def _shapes(settings, channels, context):
  settings = {**config.defaults().model.denoiser.to_dict(), **settings}
  unet = lvdm_blocks.unet(settings, 4, remat="none")
  like = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  conditions = types.Conditions(context=like(1, 77, context) if context else None)
  z = like(1, 2, 8, 8, channels)
  return initializers.shapes(unet, z, like(1), conditions)["params"]


@pytest.mark.parametrize("name", RELEASES)
def test_full_size_maps_one_to_one(fixtures, name):
  recorded = json.loads((fixtures / "lvdm" / "lvdm_full_keys.json").read_text())[name]
  settings, channels, count = RELEASES[name]
  shapes = _shapes(settings, channels, 768 if name == "unet_t2v" else 0)
  assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == count
  rules = lvdm_unet.rules(shapes)
  theirs = keys.source_shapes(shapes, rules)
  assert theirs == {k: tuple(v) for k, v in recorded.items()}
  # And back: each recorded key leads to its own parameter.
  paths = {r.path for r in rules}
  assert len(paths) == len(recorded) and paths == set(keys.flatten(shapes))


@pytest.fixture(scope="module")
def small():
  settings = dict(channels=32, channel_mult=(1, 2), res_blocks=1)
  shapes = _shapes({**settings, "attention_downsample": (2,)}, 4, 0)
  rules = lvdm_unet.rules(shapes)
  rng = np.random.default_rng(0)
  draw = lambda s: rng.standard_normal(s.shape).astype(np.float32)
  return shapes, rules, keys.to_state(jax.tree.map(draw, shapes), rules)


def test_round_trip_is_bit_equal(small):
  shapes, rules, state = small
  again = keys.to_state(keys.to_params(state, rules, shapes), rules)
  assert set(again) == set(state)
  for name, value in state.items():
    np.testing.assert_array_equal(again[name], value)


@pytest.mark.parametrize(
  "key, mutate, message",
  [
    ("out.2.bias", "drop", r"\(1 differences\): out.2.bias is missing$"),
    ("middle_block.1.qkv_t.weight", "rename", "middle_block.1.qkv_t.weight is missing"),
    ("middle_block.1.qkv_t.weight", "rename", "middle_block.1.qkv_t.weight_ is unused"),
    (
      "time_embed.0.weight",
      "transpose",
      r"time_embed.0.weight has shape \(32, 128\), expected \(128, 32\)",
    ),
  ],
)
def test_a_damaged_state_is_refused_by_name(small, key, mutate, message):
  shapes, rules, state = small
  state = dict(state)
  value = state.pop(key)
  if mutate == "rename":
    state[key + "_"] = value
  elif mutate == "transpose":
    state[key] = value.T
  with pytest.raises(WeightsError, match=message):
    keys.to_params(state, rules, shapes)


def test_parameters_without_a_place_are_named(small):
  shapes, _, _ = small
  strange = {**shapes, "label_embedding": {"table": shapes["in_conv"]["bias"]}}
  with pytest.raises(WeightsError, match="no place for label_embedding/table"):
    lvdm_unet.rules(strange)
