# SPDX-License-Identifier: Apache-2.0
"""Renaming is strict, bit-equal both ways, and means what PyTorch means."""

import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.interchange import keys
from lamd_jax.errors import WeightsError

SHAPES = {
  "copy": (5,),
  "dense": (3, 2),
  "conv": (3, 2, 4, 5, 6),
  "conv2d": (3, 2, 5, 6),
  "conv1d_as_dense": (3, 2, 1),
  "conv2d_as_dense": (3, 2, 1, 1),
  "conv3d_as_dense": (3, 2, 1, 1, 1),
  "conv2d_as_vector": (1, 2, 1, 1),
  "conv_transpose": (3, 2, 4, 5, 6),
}
OURS = {
  "copy": (5,),
  "dense": (2, 3),
  "conv": (4, 5, 6, 2, 3),
  "conv2d": (1, 5, 6, 2, 3),
  "conv1d_as_dense": (2, 3),
  "conv2d_as_dense": (2, 3),
  "conv3d_as_dense": (2, 3),
  "conv2d_as_vector": (2,),
  "conv_transpose": (4, 5, 6, 3, 2),
}
RULES = [keys.Rule(f"torch.{x}", ("block", x), x) for x in SHAPES]
EXPECTED = {"block": {x: np.empty(shape, np.float32) for x, shape in OURS.items()}}


def _state():
  rng = np.random.default_rng(0)
  return {
    f"torch.{x}": rng.standard_normal(shape).astype(np.float32)
    for x, shape in SHAPES.items()
  }


def test_round_trip_is_bit_equal():
  state = _state()
  params = keys.to_params(state, RULES, EXPECTED)
  assert {k: v.shape for k, v in params["block"].items()} == OURS
  again = keys.to_state(params, RULES)
  assert list(again) == list(state)
  for name, value in state.items():
    np.testing.assert_array_equal(again[name], value)
    assert again[name].flags.c_contiguous


def test_scalars_and_device_arrays_pass():
  rules = [keys.Rule("logvar", ("logvar",), "copy")]
  params = {"logvar": jnp.float32(2.0)}
  state = keys.to_state(params, rules)
  assert state["logvar"].shape == ()
  assert keys.to_params(state, rules, params)["logvar"].shape == ()


def test_axes_land_where_they_belong():
  state = _state()
  block = keys.to_params(state, RULES, EXPECTED)["block"]
  assert block["conv"][3, 1, 2, 0, 2] == state["torch.conv"][2, 0, 3, 1, 2]
  assert block["conv2d"][0, 1, 2, 0, 2] == state["torch.conv2d"][2, 0, 1, 2]
  # A transposed convolution is run as a convolution: its taps are in reverse order.
  expected = state["torch.conv_transpose"][2, 0, 3 - 3, 4 - 1, 5 - 2]
  assert block["conv_transpose"][3, 1, 2, 2, 0] == expected


def test_every_difference_is_in_one_message():
  state = _state()
  state["torch.renamed"] = state.pop("torch.dense")
  state["torch.conv"] = state["torch.conv"].swapaxes(0, 1)
  with pytest.raises(WeightsError) as error:
    keys.to_params(state, RULES, EXPECTED)
  message = str(error.value)
  assert "torch.dense is missing" in message
  assert "torch.renamed is unused" in message
  assert "torch.conv has shape (2, 3, 4, 5, 6), expected (3, 2, 4, 5, 6)" in message
  assert "3 differences" in message


def test_ignored_names_may_stand_there():
  state = _state()
  state["alias"] = state["torch.conv"]
  with pytest.raises(WeightsError, match="alias is unused"):
    keys.to_params(state, RULES, EXPECTED)
  keys.to_params(state, RULES, EXPECTED, ignore=("alias",))


@pytest.mark.parametrize(
  "rules, message",
  [
    (RULES[1:], "parameter block/copy has no rule"),
    (RULES + [keys.Rule("x", ("block", "y"), "copy")], "x has no parameter block/y"),
    (RULES + [keys.Rule("x", ("block", "copy"), "copy")], "10 rules for 10 names, 9"),
    (
      [keys.Rule("torch.copy", ("block", "copy"), "dense"), *RULES[1:]],
      "torch.copy has layout dense, but its parameter is of rank 1",
    ),
  ],
)
def test_a_map_that_is_not_one_to_one_is_refused(rules, message):
  with pytest.raises(WeightsError, match=message):
    keys.to_state(EXPECTED, rules)
