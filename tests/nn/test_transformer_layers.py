# SPDX-License-Identifier: Apache-2.0
"""Attention with relative positions, against recorded numbers of LVDM's."""

import numpy as np

from lamd_jax.interchange import fill
from lamd_jax.nn.transformer_layers import Attention


def test_temporal_attention_as_recorded(fixtures):
  # Five frames through tables of reach 4, two heads of six channels.
  with np.load(fixtures / "lvdm" / "lvdm_ops.npz", allow_pickle=False) as data:
    x, expected = data["tca_x"], data["tca_y"]
  draw = lambda key, shape: fill.fill(key, shape, norm_scale=False)
  weight = lambda name: draw(f"{name}.weight", (12, 12)).T
  table = lambda name: draw(f"relative_position_{name}.embeddings_table", (9, 6))
  params = {
    "q": {"kernel": weight("to_q")},
    "k": {"kernel": weight("to_k")},
    "v": {"kernel": weight("to_v")},
    "out": {"kernel": weight("to_out.0"), "bias": draw("to_out.0.bias", (12,))},
    "key_positions": table("k"),
    "value_positions": table("v"),
  }
  out = Attention(heads=2, reach=4).apply({"params": params}, x, x)
  np.testing.assert_allclose(out, expected, atol=1e-6)
  # The values are small; the bound above must not hide the tables.
  params["key_positions"] = params["key_positions"][::-1]
  params["value_positions"] = params["value_positions"][::-1]
  other = Attention(heads=2, reach=4).apply({"params": params}, x, x)
  assert np.abs(other - expected).max() > 1e-5
