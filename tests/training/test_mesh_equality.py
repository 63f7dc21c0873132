# SPDX-License-Identifier: Apache-2.0
"""Every preset of the mesh computes what one device computes.

The stage is made of the blocks that a mesh cuts: 2-D and 3-D convolutions, whole-clip
norms, attention in space and time. Those of the papers, with every preset, are in
systems/test_mesh_product.py.
"""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp
import mesh_equality
import numpy as np
import pytest
import toy_stage

from lamd_jax import types
from lamd_jax.nn import initializers
from lamd_jax.nn.layers import Conv
from lamd_jax.nn.residual import ResBlock
from lamd_jax.nn.spatial_temporal_attention import SpatialTemporalAttention
from lamd_jax.ops import axes
from lamd_jax.training import stage as stage_lib

CLIP = (8, 4, 4, 4, 3)


class _Network(nn.Module):
  @nn.compact
  def __call__(self, x, context):
    x = axes.constrain(x, "batch", "frames", "whole", "whole", "whole")
    x = Conv(32, (3, 1, 1), name="in_conv")(x)
    x = ResBlock(64, None, 1, True, name="res")(x, context[:, 0], "video")
    block = SpatialTemporalAttention(4, 4, True, False, name="attention")
    return Conv(3, (1, 3, 3), name="out_conv")(block(x, context, "video"))


class _Stage:
  name = "toy"
  groups = averaged = ("network",)
  needs = ()
  variants = ("only",)
  starts_from = ""

  def trained(self, variant):
    return self.groups

  def init(self, seed):
    clip, context = jnp.zeros(CLIP), jnp.zeros((8, 5, 16))
    return {"network": initializers.initialize(_Network(), seed, clip, context)}, {}

  def forward(self, params, extras, frozen, batch, streams, variant):
    x = batch.video.astype(jnp.float32) / 127.5 - 1
    noise = streams.normal("noise", batch.index, x.shape[1:])
    context = streams.normal("context", batch.index, (5, 16))
    loss = jnp.mean((_Network().apply(params["network"], x + noise, context) - x) ** 2)
    return stage_lib.StageOutput({"network": loss}, extras, {})


def _batch():
  video = np.random.default_rng(0).integers(0, 256, CLIP, np.uint8)
  return types.VideoBatch(video, np.arange(8, dtype=np.int32))


def _step(preset, devices):
  optim = toy_stage.config(accumulate=1, clip_norm=0.0).optim.toy
  return mesh_equality.step_on(_Stage(), optim, {}, _batch(), preset, devices)


@pytest.fixture(scope="module")
def alone():
  return _step("one", 1)


@pytest.mark.parametrize(
  "preset", ["dp", "fsdp", "fsdp_tp", "frames", "fsdp=2,tensor=2,frames=2"]
)
def test_eight_devices_compute_what_one_does(alone, preset):
  loss, (gradient, leaf) = mesh_equality.worst(_step(preset, 8), alone)
  assert loss < 1e-5
  assert gradient < 1e-5, leaf
