# SPDX-License-Identifier: Apache-2.0
"""Settings reach the blocks."""

import jax
import jax.numpy as jnp

from lamd_jax import config
from lamd_jax import types
from lamd_jax.nn import initializers
from lamd_jax.systems import lvdm_blocks

SMALL = dict(channels=32, channel_mult=(1, 2), res_blocks=1, attention_downsample=(2,))


def _shapes(**settings):
  settings = {**config.defaults().model.denoiser.to_dict(), **SMALL, **settings}
  unet = lvdm_blocks.unet(settings, 4, remat="none")
  like = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  conditions = types.Conditions(context=like(1, 5, 6))
  z = like(1, 2, 4, 4, 4)
  return initializers.shapes(unet, z, like(1), conditions)["params"]


def test_each_setting_shows_in_the_parameters():
  shapes = _shapes(temporal_kernel=3, scale_shift_norm=False, temporal_length=7)
  assert shapes["in_conv"]["kernel"].shape == (3, 3, 3, 4, 32)
  res, attention = shapes["down_1_res"], shapes["middle_attention"]
  assert res["conv_0"]["kernel"].shape == (3, 3, 3, 32, 32)
  assert res["embedding"]["kernel"].shape == (128, 32)
  assert attention["temporal_attention"]["key_positions"].shape == (15, 16)
  transformer = _shapes(transformer=True)["middle_attention"]
  assert transformer["cross_attention"]["k"]["kernel"].shape == (6, 64)
  plain = _shapes(relative_position=False)["middle_attention"]
  assert "key_positions" not in plain["temporal_attention"]


def test_the_published_defect_is_a_setting():
  settings = {**config.defaults().model.denoiser.to_dict(), **SMALL}
  block = lambda s: lvdm_blocks.unet(s, 4, remat="none").attention_block()
  assert block(settings).rel_pos_key_transposed is True
  settings["rel_pos_key_transposed"] = False
  assert block(settings).rel_pos_key_transposed is False
