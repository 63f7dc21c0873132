# SPDX-License-Identifier: Apache-2.0
"""Every name of I3D has one place in ours, in each of its three namings."""

import json

import numpy as np
import pytest

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import i3d
from lamd_jax.interchange import keys
from lamd_jax.interchange import safetensors_file
from lamd_jax.networks import i3d as network_file

TINY = network_file.I3D(epsilon=1e-3, classes=5, divide=16, pool=1)


def _expected(network, naming):
  shapes = i3d.shapes(network)
  if naming == "sonnet":
    flat = {p: v for p, v in keys.flatten(shapes).items() if p[-1] != "scale"}
    shapes = keys.nest(flat)
  return shapes


@pytest.mark.parametrize("naming", i3d.NAMINGS)
def test_full_size_maps_one_to_one(fixtures, naming):
  # Names written out by fixtures/i3d/make.py, on its own from a torch network.
  recorded = json.loads((fixtures / "i3d" / "full_keys.json").read_text())[naming]
  expected = _expected(network_file.I3D(epsilon=1e-3), naming)
  theirs = keys.source_shapes(expected, i3d.rules(expected, naming))
  counters = i3d.ignored(recorded)
  assert len(counters) == (0 if naming == "sonnet" else 57)
  assert theirs == {k: tuple(v) for k, v in recorded.items() if k not in counters}


@pytest.fixture(scope="module")
def params():
  rng = np.random.default_rng(0)
  draw = lambda s: rng.uniform(0.5, 1.5, s.shape).astype(np.float32)
  return keys.nest({
    path: np.ones(s.shape, np.float32) if path[-1] == "scale" else draw(s)
    for path, s in keys.flatten(i3d.shapes(TINY)).items()
  })


def _same(a, b):
  a, b = keys.flatten(a), keys.flatten(b)
  assert set(a) == set(b)
  for path, value in a.items():
    np.testing.assert_array_equal(value, b[path], strict=True)


@pytest.mark.parametrize("naming", i3d.NAMINGS)
def test_round_trip_is_bit_equal(params, naming):
  state = i3d.to_state(params, naming)
  assert i3d.naming(state) == naming
  _same(i3d.to_params(state, TINY), params)


def test_each_tensor_goes_to_its_place(params):
  torch, other = (i3d.to_state(params, n) for n in ("piergiaj", "hassony2"))
  tf = i3d.to_state(params, "sonnet")
  unit, root = params["Mixed_5b"]["b2b"], "RGB/inception_i3d/Mixed_5b/Branch_2"
  for name, ours in [
    ("Mixed_5b.b2b.conv3d.weight", unit["kernel"].transpose(4, 3, 0, 1, 2)),
    ("Mixed_5b.b2b.bn.running_var", unit["var"]),
    ("Conv3d_1a_7x7.bn.weight", params["Conv3d_1a_7x7"]["scale"]),
    ("logits.conv3d.bias", params["logits_bias"]),
  ]:
    np.testing.assert_array_equal(torch[name], ours)
  np.testing.assert_array_equal(other["mixed_5b.branch_2.1.batch3d.bias"], unit["bias"])
  # The original's slip: this is the second convolution of its branch.
  np.testing.assert_array_equal(tf[f"{root}/Conv3d_0a_3x3/conv_3d/w"], unit["kernel"])
  assert f"{root}/Conv3d_0b_3x3/conv_3d/w" not in tf


def test_counters_and_variable_suffixes_are_passed_over(params):
  state = i3d.to_state(params)
  state["Conv3d_1a_7x7.bn.num_batches_tracked"] = np.int64(7)
  _same(i3d.to_params(state, TINY), params)
  tf = {f"{k}:0": v for k, v in i3d.to_state(params, "sonnet").items()}
  _same(i3d.to_params(tf, TINY), params)


def test_mutations_are_refused(params):
  name = "Mixed_4c.b1b.conv3d.weight"
  state = i3d.to_state(params)
  value = state[name]
  for mutated, message in [
    ({k: v for k, v in state.items() if k != name}, f"{name} is missing"),
    ({**state, "Mixed_9z.weight": value}, "Mixed_9z.weight is unused"),
    ({**state, name: value.swapaxes(0, 1)}, f"{name} has shape"),
    ({**state, name: value * np.nan}, "Mixed_4c/b1b/kernel is not finite"),
    (
      {**state, "Mixed_4c.b0.bn.running_var": -state["Mixed_4c.b0.bn.running_var"]},
      "Mixed_4c/b0/var is a negative variance",
    ),
    # One naming within another: nothing is guessed.
    ({**state, "mixed_4c.branch_0.batch3d.bias": value}, "is missing"),
  ]:
    with pytest.raises(WeightsError, match=message):
      i3d.to_params(mutated, TINY)


def test_a_scale_does_not_vanish_into_sonnet(params):
  unit = params["Conv3d_2b_1x1"]
  odd = {**params, "Conv3d_2b_1x1": {**unit, "scale": unit["scale"] * 2}}
  with pytest.raises(WeightsError, match="Conv3d_2b_1x1/scale is not 1"):
    i3d.to_state(odd, "sonnet")


def test_load_says_what_to_do(params, tmp_path):
  path = tmp_path / "i3d.safetensors"
  with pytest.raises(WeightsError, match="tools.convert i3d") as error:
    i3d.load(path, TINY)
  assert "\n" not in str(error.value)
  safetensors_file.write(path, i3d.to_state(params), {})
  _same(i3d.load(path, TINY), params)
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(WeightsError, match="truncated"):
    i3d.load(path, TINY)
