# SPDX-License-Identifier: Apache-2.0
"""Where arrays lie, and refusals of meshes and batches that do not fit."""

from __future__ import annotations

import logging as python_logging
import types

import jax
from jax.sharding import AxisType, PartitionSpec
import numpy as np
import pytest

from lamd_jax.errors import ConfigError
from lamd_jax.training import sharding


@pytest.mark.parametrize(
  "preset, shape",
  [
    ("dp", (8, 1, 1, 1)),
    ("fsdp", (1, 8, 1, 1)),
    ("fsdp_tp", (1, 4, 2, 1)),
    ("frames", (4, 1, 1, 2)),
    ("fsdp=2,tensor=-1,frames=2", (1, 2, 2, 2)),
  ],
)
def test_presets(preset, shape):
  mesh = sharding.make_mesh(preset)
  assert mesh.axis_names == ("data", "fsdp", "tensor", "frames")
  assert mesh.devices.shape == shape
  assert set(mesh.axis_types) == {AxisType.Auto}
  assert sharding.batch_parts(mesh) == shape[0] * shape[1]


@pytest.mark.parametrize(
  "shape, parts, spec",
  [
    ((3, 3, 64, 128), 8, PartitionSpec(None, None, None, "fsdp")),
    ((3, 3, 128, 64), 8, PartitionSpec(None, None, "fsdp")),
    ((64, 64), 8, PartitionSpec(None, "fsdp")),  # the last among equals
    ((100, 64), 8, PartitionSpec(None, "fsdp")),  # 8 does not divide 100
    ((99, 99), 8, PartitionSpec()),
    ((64, 64), 1, PartitionSpec()),
    ((8,), 8, PartitionSpec()),  # below min_bytes
  ],
)
def test_largest_divisible_dimension_is_cut(shape, parts, spec):
  sizes = {"data": 1, "fsdp": parts, "tensor": 1, "frames": 1}
  assert sharding.spec_for(("in", "kernel"), shape, 4, sizes, min_bytes=64) == spec


@pytest.mark.parametrize(
  "names, shape, spec",
  [
    # The first of two layers by its outputs, the second by its inputs.
    (("conv_0", "kernel"), (3, 3, 64, 128), PartitionSpec(None, None, "fsdp", "tensor")),
    (("conv_1", "kernel"), (3, 3, 128, 64), PartitionSpec(None, None, "tensor", "fsdp")),
    (("q", "kernel"), (64, 64), PartitionSpec("fsdp", "tensor")),
    (("out", "kernel"), (64, 64), PartitionSpec("tensor", "fsdp")),
    (("q", "bias"), (64,), PartitionSpec("fsdp")),
    (("out", "kernel"), (63, 64), PartitionSpec(None, "fsdp")),  # 2 does not divide 63
    (("kernel",), (64, 63), PartitionSpec("fsdp")),
  ],
)
def test_tensor_cuts_what_lies_between_two_layers(names, shape, spec):
  sizes = {"data": 1, "fsdp": 4, "tensor": 2, "frames": 1}
  assert sharding.spec_for(names, shape, 4, sizes, min_bytes=64) == spec


def test_averages_and_moments_lie_like_their_parameter():
  mesh = sharding.make_mesh("fsdp_tp")
  kernel = {"block": {"out": {"kernel": np.zeros((64, 32), np.float32)}}}
  state = {"params": kernel, "ema": {"g": kernel}, "opt": [{"mu": {"g": kernel}}]}
  found = jax.tree.leaves(sharding.state_shardings(state, mesh, min_bytes=1))
  assert [s.spec for s in found] == [PartitionSpec("tensor", "fsdp")] * 3


def test_large_replicated_arrays_are_named_and_small_ones_not(caplog):
  mesh = sharding.make_mesh("fsdp")
  tree = {"odd": np.zeros((99, 99), np.float32), "bias": np.zeros(3, np.float32)}
  with caplog.at_level(python_logging.WARNING):
    found = sharding.state_shardings(tree, mesh, min_bytes=1024)
  assert all(s.spec == PartitionSpec() for s in jax.tree.leaves(found))
  assert "'odd'" in caplog.text
  assert "'bias'" not in caplog.text


def test_large_arrays_that_fsdp_leaves_whole_are_named_though_tensor_cuts_them(caplog):
  mesh = sharding.make_mesh("fsdp_tp")
  tree = {"dense": {"kernel": np.zeros((99, 102), np.float32)}}
  with caplog.at_level(python_logging.WARNING):
    found = sharding.state_shardings(tree, mesh, min_bytes=1024)
  assert found["dense"]["kernel"].spec == PartitionSpec(None, "tensor")
  assert "replicated over fsdp" in caplog.text


def test_placed_arrays_do_not_share_numpys_memory():
  mesh = sharding.make_mesh("dp", jax.devices()[:1])
  # Aligned as JAX wants it to keep the memory.
  data = np.zeros((1 << 18) + 64, np.uint8)
  start = -data.ctypes.data % 64
  host = {"a": data[start : start + (1 << 18)].view(np.float32)}
  placed = sharding.place(host, sharding.state_shardings(host, mesh))
  host["a"][:] = 1
  assert float(placed["a"].max()) == 0


def test_batch_is_cut_over_all_devices_in_order():
  mesh = sharding.make_mesh("fsdp")
  rows = np.arange(16, dtype=np.int32)
  placed = sharding.place_batch({"x": rows}, mesh)["x"]
  np.testing.assert_array_equal(placed, rows)
  assert [s.data.shape for s in placed.addressable_shards] == [(2,)] * 8


def test_one_device_is_refused_to_several_processes():
  devices = [types.SimpleNamespace(process_index=i // 2) for i in range(4)]
  with pytest.raises(ConfigError, match="several processes.*train.mesh=dp"):
    sharding.make_mesh("one", devices)


def test_check_batch_names_the_multiple():
  mesh = sharding.make_mesh("dp")
  sharding.check_batch(mesh, 32, 2)
  with pytest.raises(ConfigError, match="batch=8.*2 micro-batches.*multiple of 16"):
    sharding.check_batch(mesh, 8, 2)
