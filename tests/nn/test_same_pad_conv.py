# SPDX-License-Identifier: Apache-2.0
"""Border-repeating convolutions against the reference's recorded outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.interchange import fill
from lamd_jax.interchange import keys
from lamd_jax.nn import same_pad_conv
from lamd_jax.ops import conv_repeated

# name in lvdm_ops.npz -> kernel, stride
CONVS = {
  "conv_k3s1": ((3, 3, 3), (1, 1, 1)),
  "conv_k4s222": ((4, 4, 4), (2, 2, 2)),
  "conv_k4s122": ((4, 4, 4), (1, 2, 2)),
  "conv_k1s1": ((1, 1, 1), (1, 1, 1)),
}
TRANSPOSED = {"convt_s222": (2, 2, 2), "convt_s122": (1, 2, 2)}


@pytest.fixture(scope="module")
def recorded(fixtures):
  with np.load(fixtures / "lvdm" / "lvdm_ops.npz", allow_pickle=False) as data:
    return {k: data[k] for k in ("x", *CONVS, *TRANSPOSED)}


def _filled(prefix, layout, shape):
  """Parameters by the fixtures' rule; `shape` is PyTorch's, the bias has 5 entries."""
  rules = [
    keys.Rule(f"{prefix}.weight", ("kernel",), layout),
    keys.Rule(f"{prefix}.bias", ("bias",), "copy"),
  ]
  state = {
    f"{prefix}.weight": fill.fill(f"{prefix}.weight", shape, False),
    f"{prefix}.bias": fill.fill(f"{prefix}.bias", (5,), False),
  }
  kernel = jax.ShapeDtypeStruct((*shape[2:], 3, 5), jnp.float32)
  expected = {"kernel": kernel, "bias": jax.ShapeDtypeStruct((5,), jnp.float32)}
  return {"params": keys.to_params(state, rules, expected)}


def _assert_as_recorded(module, variables, recorded, name):
  x = np.moveaxis(recorded["x"], 1, -1)
  y = np.moveaxis(np.asarray(jax.jit(module.apply)(variables, x)), -1, 1)
  assert y.shape == recorded[name].shape
  np.testing.assert_allclose(y, recorded[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", CONVS)
def test_same_pad_conv(recorded, name):
  kernel, stride = CONVS[name]
  variables = _filled("conv", "conv", (5, 3, *kernel))
  module = same_pad_conv.SamePadConv(5, kernel, stride)
  _assert_as_recorded(module, variables, recorded, name)


@pytest.mark.parametrize("name", TRANSPOSED)
def test_same_pad_conv_transpose(recorded, name):
  variables = _filled("convt", "conv_transpose", (3, 5, 4, 4, 4))
  module = same_pad_conv.SamePadConvTranspose(5, TRANSPOSED[name])
  _assert_as_recorded(module, variables, recorded, name)


def test_padding_repeats_the_border_more_in_front():
  x = jnp.arange(1.0, 4.0).reshape(1, 3, 1, 1, 1)
  padded = conv_repeated.replicate_pad(x, (4, 1, 1), (1, 1, 1))
  np.testing.assert_array_equal(padded.ravel(), [1, 1, 1, 2, 3, 3])
  assert conv_repeated.replicate_pad(x, (4, 1, 1), (2, 1, 1)).shape[1] == 5


def test_initial_half_widths_are_pytorchs():
  x = jax.ShapeDtypeStruct((1, 2, 2, 2, 3), jnp.float32)
  boxed = lambda module: jax.eval_shape(module.init, jax.random.key(0), x)["params"]
  conv = boxed(same_pad_conv.SamePadConv(64))
  up = boxed(same_pad_conv.SamePadConvTranspose(64, (2, 2, 2)))
  widths = [layer[part].scale for layer in (conv, up) for part in ("kernel", "bias")]
  # 1/sqrt(fan in): 3 inputs x 27 taps; a transposed weight's fan is read off its
  # outputs: 64 x 64 taps.
  np.testing.assert_allclose(widths, [81**-0.5] * 2 + [4096**-0.5] * 2)
