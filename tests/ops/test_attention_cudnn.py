# SPDX-License-Identifier: Apache-2.0
"""When cuDNN is asked for attention, and what for; no card is needed.

What its kernels compute is left to JAX's own tests; that they compile: test_ahead.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.nn import initializers
from lamd_jax.nn.pseudo_3d_transformer import Pseudo3DTransformer
from lamd_jax.nn.spatial_temporal_attention import SpatialTemporalAttention
from lamd_jax.nn.spatial_temporal_transformer import SpatialTemporalTransformer
from lamd_jax.nn.spatial_transformer import SpatialTransformer
from lamd_jax.ops import attention
from lamd_jax.ops import attention_cudnn
from lamd_jax.systems.registry import SYSTEMS
from tests import absent_devices
from tests import tiny


@pytest.fixture
def asked(monkeypatch):
  """The shapes of queries that cuDNN is asked about; XLA answers in its place."""
  seen, answer = [], jax.nn.dot_product_attention

  def ask(q, k, v, *, scale, implementation):
    assert implementation == "cudnn"
    seen.append(q.shape)
    return answer(q, k, v, scale=scale, implementation="xla")

  monkeypatch.setattr(jax.nn, "dot_product_attention", ask)
  return seen


@pytest.mark.parametrize(
  ["queries", "keys", "width", "dtype", "fits"],
  [
    (1024, 1024, 40, "bfloat16", True), (256, 128, 128, "bfloat16", True),
    (1024, 1024, 40, "float32", False), (1024, 1024, 36, "bfloat16", False),
    (1024, 1024, 160, "bfloat16", False), (1024, 77, 40, "bfloat16", False),
    (16, 1024, 40, "bfloat16", False),
  ],
)  # fmt: skip
def test_what_it_takes(queries, keys, width, dtype, fits):
  shaped = lambda length: jax.ShapeDtypeStruct((2, length, 8, width), dtype)
  assert attention_cudnn.fits(shaped(queries), shaped(keys)) == fits


@pytest.mark.parametrize(
  ["platform", "wanted", "times"], [("gpu", True, 1), ("gpu", False, 0), ("tpu", True, 0)]
)
def test_programs_for_gpus_ask_it_where_the_config_says_so(
  asked, platform, wanted, times
):
  x = jax.ShapeDtypeStruct((2, 128, 2, 8), jnp.bfloat16)
  run = functools.partial(attention.attention, scale=0.5, cudnn=wanted)
  with absent_devices.mesh(platform):
    jax.eval_shape(run, x, x, x)
  assert asked == [x.shape] * times
  jax.eval_shape(run, x, x, x)  # for whatever it may be lowered for, and no GPU is here
  assert asked == [x.shape] * times


def test_it_is_given_the_same_queries_keys_and_scale(asked):
  rng = np.random.default_rng(0)
  q, k, v = (
    jnp.asarray(rng.standard_normal((2, n, 2, 8)), jnp.bfloat16) for n in (128, 130, 130)
  )
  found = attention_cudnn.attention(q, k, v, 0.3)
  expected = attention.attention(q, k, v, 0.3)
  assert len(asked) == 1 and found.dtype == expected.dtype
  # Both round the weights of the softmax and the result to bfloat16, 2^-8 of it.
  np.testing.assert_allclose(
    *(np.asarray(x, np.float32) for x in (found, expected)), rtol=2**-7, atol=2**-9
  )


@pytest.mark.parametrize(
  ["block", "context"],
  [
    (functools.partial(SpatialTemporalAttention, 2, 3, True, False), False),
    (functools.partial(SpatialTemporalTransformer, 2, 3, True, False), True),
    (functools.partial(SpatialTransformer, 2, 0), True),
    (functools.partial(Pseudo3DTransformer, 2, 0, True, 8, True), True),
  ],
)
def test_blocks_ask_it_for_pixels_alone(asked, block, context):
  x = jax.ShapeDtypeStruct((1, 3, 16, 8, 32), jnp.bfloat16)
  words = jax.ShapeDtypeStruct((1, 7, 12), jnp.bfloat16) if context else None
  network = block(cudnn=True, dtype=jnp.bfloat16)
  params = initializers.initialize(network, None, x, words, "video")["params"]
  asked.clear()
  with absent_devices.mesh("gpu"):
    jax.eval_shape(lambda *a: network.apply({"params": a[0]}, *a[1:], "video"),
                   params, x, words)  # fmt: skip
  assert asked == [(3, 128, 2, 16)]  # a row is a frame of 16x8 pixels


@pytest.mark.parametrize("config", [tiny.config, tiny.lamd_config, tiny.gen1_config])
@pytest.mark.parametrize("wanted", [True, False])
def test_the_config_reaches_every_denoiser(config, wanted):
  config = config(train__cudnn_attention=wanted)
  system = SYSTEMS[config.system](config)
  networks = system.unets.values() if config.system == "lvdm" else [system.unet]
  for network in networks:
    assert network.attention_block.keywords["cudnn"] is wanted
