# SPDX-License-Identifier: Apache-2.0
"""LVDM's attention block against recorded numbers, and who sees whom in it."""

import json

import jax
import numpy as np
import pytest

from lamd_jax.interchange import fill
from lamd_jax.nn import initializers
from lamd_jax.nn.spatial_temporal_attention import SpatialTemporalAttention


def _block(**changes):
  settings = dict(
    heads=4, temporal_length=4, relative_position=True, rel_pos_key_transposed=True
  )
  return SpatialTemporalAttention(**{**settings, **changes})


def _apply(block, params, x, mode="video"):
  run = jax.jit(lambda p, x: block.apply({"params": p}, x, None, mode))
  return np.asarray(run(params, x))


def _recorded_params(data):
  names = [str(k) for k in data["keys"]]
  shapes = dict(zip(names, json.loads(str(data["shapes"]))))
  scales = dict(zip(names, data["norm_scale"].tolist()))
  state = fill.state(shapes, scales)
  dense = lambda name: {
    "kernel": state[f"{name}.weight"][..., 0].T,
    "bias": state[f"{name}.bias"],
  }
  half = lambda s: {
    "norm": {"scale": state[f"norm_{s}.weight"], "bias": state[f"norm_{s}.bias"]},
    "qkv": dense(f"qkv_{s}"),
    "out": dense(f"proj_out_{s}"),
  }
  tables = {
    "key_positions": state["relative_position_k.embeddings_table"],
    "value_positions": state["relative_position_v.embeddings_table"],
  }
  return {"spatial_attention": half("s"), "temporal_attention": {**half("t"), **tables}}


@pytest.fixture(scope="module")
def recorded(fixtures):
  with np.load(fixtures / "lvdm" / "lvdm_ops.npz", allow_pickle=False) as data:
    return dict(data)


def test_block_as_recorded(recorded):
  params = _recorded_params(recorded)
  x = np.moveaxis(recorded["stab_x"], 1, -1)
  out = np.moveaxis(_apply(_block(), params, x), -1, 1)
  np.testing.assert_allclose(out, recorded["stab_y"], atol=1e-5)
  right = _apply(_block(rel_pos_key_transposed=False), params, x)
  assert np.abs(np.moveaxis(right, -1, 1) - recorded["stab_y"]).max() > 1e-4


def test_image_mode_bypasses_exactly_the_temporal_submodules(recorded):
  params = _recorded_params(recorded)
  x = np.moveaxis(recorded["stab_x"], 1, -1)
  spatial_only = {"spatial_attention": params["spatial_attention"]}
  image = _apply(_block(), spatial_only, x, "image")
  video = _apply(_block(), params, x)
  assert np.abs(image - video).max() > 1e-2
  # In image mode a frame does not see the others.
  single = _apply(_block(), spatial_only, x[:, 2:3], "image")
  np.testing.assert_allclose(image[:, 2:3], single, atol=1e-6)


def test_temporal_half_sees_frames_of_the_same_pixel_only(recorded):
  # Spatial projection at zero, so that only the temporal half acts.
  params = jax.tree.map(np.array, _recorded_params(recorded))
  params["spatial_attention"]["out"] = jax.tree.map(
    np.zeros_like, params["spatial_attention"]["out"]
  )
  x = np.ascontiguousarray(np.moveaxis(recorded["stab_x"], 1, -1))
  moved = x.copy()
  moved[0, 1, 2, 3, 0] += 1
  change = np.abs(_apply(_block(), params, moved) - _apply(_block(), params, x))
  changed = change.max((0, 4)) > 1e-6  # [T,H,W]
  expected = np.zeros_like(changed)
  expected[:, 2, 3] = True
  np.testing.assert_array_equal(changed, expected)


def test_starts_as_the_identity_and_takes_more_frames_than_its_tables():
  x = np.random.default_rng(0).standard_normal((1, 6, 2, 2, 32)).astype(np.float32)
  block = _block(temporal_length=2)
  params = initializers.initialize(block, 0, x, None, mode="video")["params"]
  np.testing.assert_array_equal(_apply(block, params, x), x)
  table = params["temporal_attention"]["key_positions"]
  assert table.shape == (5, 8) and np.abs(table).max() > 0


def test_without_relative_positions_there_are_no_tables():
  x = np.zeros((1, 2, 2, 2, 32), np.float32)
  block = _block(relative_position=False)
  shapes = initializers.shapes(block, x, None, mode="video")["params"]
  assert set(shapes["temporal_attention"]) == {"norm", "qkv", "out"}
