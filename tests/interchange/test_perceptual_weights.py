# SPDX-License-Identifier: Apache-2.0
"""LPIPS weights: strict names, the right layouts, one line for each mishap."""

import json
import struct

import numpy as np
import pytest

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import perceptual
from lamd_jax.interchange import safetensors_file
from lamd_jax.networks import perceptual as network
import torch_writer as writer


@pytest.fixture(scope="module")
def state():
  """All 14,716,160 numbers, in the names and layouts of the published files."""
  shapes = keys.source_shapes(network.shapes(), perceptual.rules())
  ramp = lambda shape: np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  return {name: ramp(shape) for name, shape in shapes.items()}


def _raw(header, body=b""):
  text = json.dumps(header).encode()
  return struct.pack("<Q", len(text)) + text + body


def test_names_and_shapes_are_those_of_the_published_files(state):
  # From the two files' listings: VGG16 configuration D; lpips 0.1, net "vgg".
  convolutions = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
  names = {f"features.{i}.{leaf}" for i in convolutions for leaf in ("weight", "bias")}
  assert set(state) == names | {f"lin{i}.model.1.weight" for i in range(5)}
  assert state["features.0.weight"].shape == (64, 3, 3, 3)
  assert state["features.28.weight"].shape == (512, 512, 3, 3)
  assert [state[f"lin{i}.model.1.weight"].shape for i in range(5)] == [
    (1, c, 1, 1) for c in (64, 128, 256, 512, 512)
  ]
  convolution = [v.size for k, v in state.items() if k.startswith("features")]
  assert sum(convolution) == 14_714_688
  assert sum(v.size for v in state.values()) == 14_714_688 + 1_472


def test_a_file_comes_back_with_every_axis_in_place(state, tmp_path):
  path = tmp_path / "lpips.safetensors"
  safetensors_file.write(path, state, {"part": "test"})
  params = perceptual.load(str(path))
  kernel = params["features"]["5"]["kernel"]
  assert kernel.shape == (1, 3, 3, 64, 128) and kernel.dtype == np.float32
  assert kernel[0, 2, 1, 7, 100] == state["features.5.weight"][100, 7, 2, 1]
  assert params["lins"]["1"][3] == state["lin1.model.1.weight"][0, 3, 0, 0]
  again = perceptual.to_state(params)
  for name, value in state.items():
    np.testing.assert_array_equal(again[name], value, strict=True)
  assert [p.name for p in tmp_path.iterdir()] == ["lpips.safetensors"]


def test_every_wrong_name_and_shape_is_listed(state):
  broken = dict(state)
  broken["features.1.weight"] = broken.pop("features.0.weight")
  broken["features.2.weight"] = np.swapaxes(state["features.2.weight"], 1, 2)
  broken["lin3.model.1.weight"] = state["lin3.model.1.weight"].reshape(512)
  del broken["features.28.bias"]
  with pytest.raises(WeightsError) as error:
    perceptual.to_params(broken)
  for part in (
    "(5 differences)",
    "features.0.weight is missing",
    "features.28.bias is missing",
    "features.1.weight is unused",
    "features.2.weight has shape (64, 3, 64, 3), expected (64, 64, 3, 3)",
    "lin3.model.1.weight has shape (512,), expected (1, 512, 1, 1)",
  ):
    assert part in str(error.value)


def test_only_the_classifier_is_ignored(state):
  perceptual.to_params({**state, "classifier.0.weight": np.zeros(1)})
  with pytest.raises(WeightsError, match="classifier.1.weight is unused"):
    perceptual.to_params({**state, "classifier.1.weight": np.zeros(1)})


def test_impossible_values_are_refused(state):
  lin = -state["lin0.model.1.weight"]
  with pytest.raises(WeightsError, match="lins/0 is negative"):
    perceptual.to_params({**state, "lin0.model.1.weight": lin})
  bias = np.full(64, np.nan, np.float32)
  with pytest.raises(WeightsError, match="features/0/bias is not finite"):
    perceptual.to_params({**state, "features.0.bias": bias})


@pytest.mark.parametrize(
  "body, message",
  (
    (None, "does not exist"),
    (b"", "no safetensors file"),
    (b"hello", "no safetensors file"),
    (writer.pickled({"a": 1}), "pickle or zip"),
    (b"PK\x03\x04" + bytes(60), "pickle or zip"),
    (
      _raw({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(7)),
      "damaged or truncated",
    ),
    (
      _raw({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
      "a is unused",
    ),
    (_raw({}), "features.0.weight is missing"),
  ),
)
def test_other_files_are_refused_in_one_line(tmp_path, body, message):
  path = tmp_path / "x.safetensors"
  if body is not None:
    path.write_bytes(body)
  with pytest.raises(WeightsError, match=message) as error:
    perceptual.load(path)
  assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
  "kind, body",
  # 1 and -2, from the definitions of the two formats.
  (("F16", b"\x00\x3c\x00\xc0"), ("BF16", b"\x80\x3f\x00\xc0")),
)
def test_halves_are_widened(tmp_path, kind, body):
  path = tmp_path / "x.safetensors"
  header = {"a": {"dtype": kind, "shape": [2], "data_offsets": [0, 4]}}
  path.write_bytes(_raw(header, body))
  expected = np.array([1, -2], np.float32)
  np.testing.assert_array_equal(safetensors_file.read(path)["a"], expected, strict=True)


def test_strided_tensors_are_written_as_they_look(tmp_path):
  array = np.arange(6, dtype=np.float32).reshape(2, 3).T
  safetensors_file.write(tmp_path / "x", {"a": array, "b": np.float32(3)}, {})
  found = safetensors_file.read(tmp_path / "x")
  np.testing.assert_array_equal(found["a"], array)
  assert found["b"].shape == () and found["b"] == 3


def test_equal_tensors_give_equal_files(tmp_path):
  names = [f"tensor{i}" for i in range(20)]
  for file, order in (("x", names), ("y", names[::-1])):
    tensors = {name: np.full(3, len(name)) for name in order}
    safetensors_file.write(tmp_path / file, tensors, {"part": "test"})
  assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_a_folder_that_is_not_there_is_named(tmp_path):
  with pytest.raises(WeightsError, match="cannot be written"):
    safetensors_file.write(tmp_path / "no" / "x", {"a": np.zeros(1)}, {})


def test_help_names_every_way_out():
  for path in ("", "some/file.safetensors"):
    text = perceptual.how_to_get(path)
    assert path in text
    for part in (
      "--config.model.perceptual.weights=lpips_vgg16.safetensors",
      "vgg16-397923af.pth",
      "weights/v0.1/vgg.pth",
      "7,289",
      "python -m lamd_jax.tools.convert lpips --vgg",
      "--config.model.perceptual.weights=none",
    ):
      assert part in text
