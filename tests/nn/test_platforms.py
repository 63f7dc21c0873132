# SPDX-License-Identifier: Apache-2.0
"""What a block's gradient asks of GPUs and TPUs, read off programs lowered for them.

No such device is needed. In bfloat16 every product and convolution, of the backward
pass too, takes and gives bfloat16: one float32 operand would cost several times as much.
"""

import re

import jax
import jax.numpy as jnp
import pytest

from lamd_jax.nn import initializers
from lamd_jax.nn.residual import ResBlock
from lamd_jax.nn.spatial_temporal_attention import SelfAttention
from lamd_jax.ops import conv

BFLOAT16 = jnp.bfloat16
_PRODUCT = re.compile(r"stablehlo\.(convolution|dot_general)\b.*: \((.*)\) -> (.*)")
_DTYPE = re.compile(r"tensor<(?:\d+x)*([a-z]\w+)>")


def _products(text):
  """The dtypes of each product's operands and result, and its kind.

  Without the averages that norms take of a few numbers, in full precision.
  """
  lines = [line for line in text.splitlines() if "[HIGHEST, HIGHEST]" not in line]
  found = [_PRODUCT.search(line) for line in lines]
  return [(m[1], _DTYPE.findall(f"{m[2]} {m[3]}")) for m in found if m]


def _gradient(network, *arguments):
  """The program of the parameters' and the input's gradients, and its arguments."""
  shapes = [jax.ShapeDtypeStruct(shape, BFLOAT16) for shape in arguments]
  more = ("video",) * (len(shapes) > 1)  # the mode
  params = initializers.initialize(network, None, *shapes, *more)["params"]

  def loss(params, *inputs):
    y = network.apply({"params": params}, *inputs, *more)
    return y.astype(jnp.float32).sum()

  return jax.jit(jax.grad(loss, argnums=(0, 1))).trace(params, *shapes)


def _lowered(network, *arguments):
  # Both at once: a program for either.
  return _gradient(network, *arguments).lower(lowering_platforms=("cuda", "tpu")).as_text()


def _dtypes_of(operation, text):
  return set(_DTYPE.findall("".join(re.findall(rf"stablehlo\.{operation} .*", text))))


def test_products_of_a_residual_block_are_in_bfloat16_and_its_norms_are_not():
  text = _lowered(ResBlock(32, None, 3, True, BFLOAT16), (1, 2, 4, 4, 32), (1, 8))
  products = _products(text)
  assert {name for name, _ in products} == {"convolution", "dot_general"}
  assert {dtype for _, dtypes in products for dtype in dtypes} == {"bf16"}
  assert _dtypes_of("rsqrt", text) == {"f32"}
  assert "f64" not in text and "custom_call" not in text


def test_products_of_attention_are_in_bfloat16_and_its_softmax_is_not():
  text = _lowered(SelfAttention(2, 2, False, dtype=BFLOAT16), (1, 3, 32))
  products = _products(text)
  assert {name for name, _ in products} == {"dot_general"}
  assert {dtype for _, dtypes in products for dtype in dtypes[:2]} == {"bf16"}
  # The logits alone are not rounded; the text holds both platforms.
  results = [dtypes[2] for _, dtypes in products]
  assert set(results) == {"bf16", "f32"} and results.count("f32") == 2
  assert _dtypes_of("rsqrt", text) == _dtypes_of("exponential", text) == {"f32"}
  assert "f64" not in text and "custom_call" not in text


@pytest.mark.parametrize("platform", ["cuda", "tpu", "cpu"])
def test_a_clip_is_one_convolution_but_on_cpus(platform):
  x = jax.ShapeDtypeStruct((1, 4, 8, 8, 16), BFLOAT16)
  kernel = jax.ShapeDtypeStruct((3, 3, 3, 16, 16), BFLOAT16)
  apply = jax.jit(lambda x, kernel: conv.conv(x, kernel, padding=((1, 1),) * 3))
  text = apply.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
  assert len(_products(text)) == (3 if platform == "cpu" else 1)
