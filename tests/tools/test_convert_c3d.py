# SPDX-License-Identifier: Apache-2.0
"""python -m lamd_jax.tools.convert c3d, and the names of C3D's published file."""

import json
import math

import numpy as np
import pytest

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import c3d
from lamd_jax.interchange import keys
from lamd_jax.networks import c3d as network_file
from lamd_jax.tools import convert
from lamd_jax.tools import convert_c3d

TINY, SIZE = network_file.C3D(classes=5, divide=64), 16


@pytest.fixture(scope="module")
def state():
  expected = c3d.shapes(TINY, SIZE)
  rng = np.random.default_rng(0)
  return {
    name: rng.standard_normal(shape).astype(np.float32)
    for name, shape in keys.source_shapes(expected, c3d.rules(expected)).items()
  }


@pytest.fixture
def files(state, tmp_path):
  np.savez(tmp_path / "net.npz", **state)
  np.savez(tmp_path / "mean.npz", mean=np.ones(c3d.MEAN_SHAPE, np.float32))
  return tmp_path / "net.npz", tmp_path / "mean.npz", tmp_path / "out.safetensors"


def test_full_size_maps_one_to_one(fixtures):
  recorded = json.loads((fixtures / "c3d" / "full_keys.json").read_text())
  expected = c3d.shapes(network_file.C3D())
  theirs = keys.source_shapes(expected, c3d.rules(expected))
  assert theirs == {k: tuple(v) for k, v in recorded.items()}
  assert sum(map(math.prod, theirs.values())) == 78_409_573


def test_files_are_joined_bit_by_bit(state, files):
  convert_c3d.convert_c3d(*files, TINY, SIZE)
  params = c3d.load(files[2], TINY, SIZE)
  again = c3d.to_state(params)
  assert set(again) == {*state, "mean"} and again["mean"].sum() == 3 * 16 * 128 * 171
  for name, value in state.items():
    np.testing.assert_array_equal(again[name], value, strict=True)
  kernel = params["network"]["conv2a_kernel"]
  np.testing.assert_array_equal(kernel[1, 2, 0, 0], state["conv2a/W"][:, 0, 1, 2, 0])
  record = json.loads((files[2].parent / "out.safetensors.json").read_text())
  assert record["keys"]["fc6/W"] == "fc6_kernel" and len(record["sources"]) == 2


def test_wrong_sources_leave_no_output(state, files, capsys):
  source, mean, out = files
  for changed, message in [
    ({k: v for k, v in state.items() if k != "fc7/b"}, "fc7/b is missing"),
    ({**state, "fc9/W": state["fc8/W"]}, "fc9/W is unused"),
    ({**state, "fc6/W": state["fc6/W"].T}, "fc6/W has shape"),
    ({**state, "fc6/b": state["fc6/b"] * np.nan}, "fc6_bias is not finite"),
    ({**state, "fc6/b": np.array([{}], object)}, "without pickle"),
  ]:
    np.savez(source, **changed)
    with pytest.raises(WeightsError, match=message):
      convert_c3d.convert_c3d(source, mean, out, TINY, SIZE)
  np.savez(source, **state)
  np.savez(mean, mean=np.ones((3, 16, 112, 112)))
  arguments = ["c3d", f"--source={source}", f"--mean={mean}", f"--out={out}"]
  assert convert.main(arguments) == 4
  error = capsys.readouterr().err
  assert "the mean video of (3, 16, 128, 171) is due" in error and error.count("\n") == 1
  assert not out.exists()


def test_absent_weights_say_what_to_do(tmp_path):
  with pytest.raises(WeightsError, match="tools.convert c3d"):
    c3d.load(tmp_path / "x.safetensors")
