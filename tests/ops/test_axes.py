# SPDX-License-Identifier: Apache-2.0
"""The checked constraint: what it refuses, what it adds to a program, and what not."""

from __future__ import annotations

import logging

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.ops import axes

NAMES = ("batch", "frames", "whole", "channels")
X = np.arange(8 * 4 * 6 * 2, dtype=np.float32).reshape(8, 4, 6, 2)


def _mesh(data=1, fsdp=1, tensor=1, frames=1):
  shape = (data, fsdp, tensor, frames)
  devices = np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape)
  return Mesh(devices, ("data", "fsdp", "tensor", "frames"))


def _program(f, mesh):
  with jax.set_mesh(mesh):
    return jax.jit(f).lower(X).as_text()


def test_a_misspelt_axis_is_refused_with_and_without_a_mesh():
  with pytest.raises(ValueError, match="'frame' is no logical axis.*batch, frames"):
    axes.constrain(jnp.zeros(3), "frame")
  with jax.set_mesh(_mesh(data=8)):
    with pytest.raises(ValueError, match="'frame' is no logical axis"):
      axes.constrain(jnp.zeros(3), "frame")


def test_a_mesh_without_the_axis_is_refused():
  with jax.set_mesh(Mesh(np.array(jax.devices()), ("data",))):
    with pytest.raises(ValueError, match="channels lies on tensor.*does not have"):
      axes.constrain(jnp.zeros(8), "channels")


def test_the_wrong_number_of_names_is_refused():
  with pytest.raises(ValueError, match="2 names.*4 axes"):
    axes.constrain(jnp.asarray(X), "batch", "frames")


def test_one_device_adds_nothing_to_the_program():
  def annotated(x):
    y = axes.constrain(x, *NAMES)
    y = axes.unfold(axes.fold(y), *x.shape[:2])
    return axes.by_frame(axes.by_pixel(y))

  def bare(x):
    y = x.reshape(32, 6, 2).reshape(8, 4, 6, 2)
    return y.swapaxes(1, 2).swapaxes(1, 2)

  annotated.__name__ = bare.__name__ = "f"
  assert _program(annotated, _mesh()) == _program(bare, _mesh())
  assert jax.jit(annotated).lower(X).as_text() == jax.jit(bare).lower(X).as_text()


def test_each_named_axis_is_cut():
  with jax.set_mesh(_mesh(fsdp=2, tensor=2, frames=2)):
    placed = jax.jit(lambda x: axes.constrain(x, *NAMES))(X)
  assert placed.sharding.spec == PartitionSpec("fsdp", "frames", None, "tensor")
  assert placed.addressable_shards[0].data.shape == (4, 2, 6, 1)
  text = _program(lambda x: axes.constrain(x, *NAMES), _mesh(fsdp=2, frames=2))
  assert text.count("sdy.sharding_constraint") == 1


def test_an_axis_that_is_not_divisible_stays_whole_and_is_reported_once(
  caplog, monkeypatch
):
  monkeypatch.setattr(axes, "LARGE_BYTES", 1)
  axes._report.cache_clear()
  odd = np.zeros((8, 3), np.float32)
  with jax.set_mesh(_mesh(data=4, frames=2)), caplog.at_level(logging.WARNING):
    for _ in range(2):
      placed = jax.jit(lambda x: axes.constrain(x, "batch", "frames") + 1)(odd)
      jax.clear_caches()
  assert placed.addressable_shards[0].data.shape == (2, 3)
  assert caplog.text.count("axis 1 (frames) is not divisible by 2") == 1


@pytest.mark.parametrize("sizes", [dict(data=2, frames=4), dict(fsdp=4, frames=2)])
def test_folding_moves_no_data_and_unfolding_inverts_it(sizes):
  def f(x):
    x = axes.constrain(x, "batch", "frames", "free", "free")
    return axes.unfold(jnp.sin(axes.fold(x)), *x.shape[:2])

  with jax.set_mesh(_mesh(**sizes)):
    spec = PartitionSpec(("data", "fsdp"), "frames")
    step = jax.jit(f, in_shardings=spec, out_shardings=spec)
    text = step.lower(X).compile().as_text()
    np.testing.assert_allclose(step(X), np.sin(X), rtol=1e-6)
  for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
    assert name not in text, name


def test_the_exchange_between_space_and_time_is_one_all_to_all_each_way():
  def f(x):
    y = jnp.flip(axes.by_pixel(x), axis=2)  # needs all frames of a pixel
    return axes.by_frame(y)

  with jax.set_mesh(_mesh(data=4, frames=2)):
    spec = PartitionSpec(("data", "fsdp"), "frames")
    step = jax.jit(f, in_shardings=spec, out_shardings=spec)
    text = step.lower(X).compile().as_text()
    np.testing.assert_array_equal(step(X), X[:, ::-1])
  assert text.count(" all-to-all(") == 2
  assert "all-gather" not in text


@pytest.mark.parametrize(
  "layer, cut, whole",
  [
    ("dense_0", PartitionSpec("fsdp", "tensor"), PartitionSpec(None, "tensor")),
    ("dense_1", PartitionSpec("tensor", "fsdp"), PartitionSpec("tensor", None)),
  ],
)
def test_a_kernel_is_joined_along_fsdp_alone(layer, cut, whole):
  mesh = _mesh(fsdp=4, tensor=2)
  kernel = jax.device_put(jnp.arange(64.0).reshape(8, 8), NamedSharding(mesh, cut))
  with jax.set_mesh(mesh):
    found = jax.jit(lambda x: axes.gathered(x, layer))(kernel)
  assert found.sharding.is_equivalent_to(NamedSharding(mesh, whole), 2)
  np.testing.assert_array_equal(found, kernel)


def test_without_fsdp_a_kernel_is_left_alone():
  x = jnp.zeros((8, 8))
  with jax.set_mesh(_mesh(data=8)):
    assert axes.gathered(x, "in") is x
  assert axes.gathered(x, "in") is x
