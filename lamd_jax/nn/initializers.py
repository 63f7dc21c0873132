# SPDX-License-Identifier: Apache-2.0
"""Parameter initialisers that can be drawn by JAX or, much faster, by NumPy.

Compiling the initialisation of a UNet costs more than compiling its training step
(hundreds of small threefry programs). So an initialiser here boxes its value with a
description of its distribution; `jax.eval_shape` of a module's `init` then yields
shapes *and* distributions without computing anything, and `initialize` draws the
numbers in NumPy, keyed by (seed, parameter path): the same for every mesh and host.
Modules never see the box; Linen unboxes on access.
"""

from __future__ import annotations

from collections.abc import Callable
import hashlib
import math
from typing import Any

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

Initializer = Callable[..., Any]


class Described(struct.PyTreeNode, nn.meta.AxisMetadata):
  """A parameter with the distribution it was, or is to be, drawn from."""

  value: Any
  kind: str = struct.field(pytree_node=False)  # normal | uniform | constant
  scale: float = struct.field(pytree_node=False)  # stddev | half width | the constant
  mean: float = struct.field(pytree_node=False, default=0.0)

  def unbox(self) -> Any:
    return self.value

  def replace_boxed(self, val: Any) -> Described:
    return self.replace(value=val)

  def add_axis(self, index: int, params: dict[Any, Any]) -> Described:
    return self

  def remove_axis(self, index: int, params: dict[Any, Any]) -> Described:
    return self


def _described(
  kind: str, scale_of: Callable[[tuple[int, ...]], float], mean: float = 0.0
) -> Initializer:
  def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32):
    scale = scale_of(tuple(shape))
    if kind == "normal":
      value = mean + scale * jax.random.normal(key, shape, dtype)
    elif kind == "uniform":
      value = jax.random.uniform(key, shape, dtype, -scale, scale)
    else:
      value = jnp.full(shape, scale, dtype)
    return Described(value, kind, scale, mean)

  return init


def normal(stddev: float, mean: float = 0.0) -> Initializer:
  return _described("normal", lambda _: stddev, mean)


def constant(value: float) -> Initializer:
  return _described("constant", lambda _: value)


zeros = constant(0.0)
ones = constant(1.0)


def fan_in_uniform(fan_in: int | None = None) -> Initializer:
  """Uniform with half width 1/sqrt(fan_in): what PyTorch gives Linear and Conv.

  `fan_in` defaults to the product of all but the kernel's last axis; a bias passes
  that of its kernel.
  """
  return _described(
    "uniform", lambda shape: 1 / math.sqrt(fan_in or math.prod(shape[:-1]))
  )


def glorot_uniform() -> Initializer:
  """Uniform with half width sqrt(6/(rows+columns)) for a table [rows, columns]."""
  return _described("uniform", lambda shape: math.sqrt(6 / (shape[-2] + shape[-1])))


def _draw(path: str, seed: int, leaf: Any) -> np.ndarray:
  if not isinstance(leaf, Described):
    raise TypeError(f"parameter {path} has no described initialiser")
  shape, dtype = leaf.value.shape, leaf.value.dtype
  if leaf.kind == "constant":
    return np.full(shape, leaf.scale, dtype)
  digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
  generator = np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "big")))
  if leaf.kind == "normal":
    value = generator.standard_normal(shape, np.float32) * np.float32(leaf.scale)
    value += np.float32(leaf.mean)
  else:
    value = (generator.random(shape, np.float32) * 2 - 1) * np.float32(leaf.scale)
  return value.astype(dtype)


def shapes(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
  """Returns all collections of `module` as ShapeDtypeStructs; computes nothing."""
  return nn.unbox(_boxed(module, args, kwargs))


def initialize(
  module: nn.Module, seed: int | None, *args: Any, **kwargs: Any
) -> Any:
  """Initialises `module` on the host.

  Args:
    module: a Linen module all of whose parameters use this file's initialisers.
    seed: the seed; each parameter's numbers depend on it and on its path alone. None
      gives shapes in place of numbers, in no time.
    *args: what the module's `__call__` takes; arrays may be ShapeDtypeStructs.
    **kwargs: likewise; static values are passed on as they are.

  Returns:
    The module's collections, `{"params": ...}` and perhaps `"batch_stats"`, as
    nested dicts of NumPy arrays.
  """
  if seed is None:
    return shapes(module, *args, **kwargs)
  boxed = _boxed(module, args, kwargs)
  is_box = lambda x: isinstance(x, Described)
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: _draw(jax.tree_util.keystr(path), seed, leaf),
    boxed,
    is_leaf=is_box,
  )


def _boxed(module: nn.Module, args: Any, kwargs: Any) -> Any:
  # Arrays may be abstract; everything else in kwargs (mode, train) stays static.
  is_array = lambda x: hasattr(x, "shape") and hasattr(x, "dtype")
  leaves, treedef = jax.tree.flatten((args, kwargs))
  arrays = [x for x in leaves if is_array(x)]

  def init(key, arrays):
    supply = iter(arrays)
    merged = [next(supply) if is_array(x) else x for x in leaves]
    a, k = jax.tree.unflatten(treedef, merged)
    return module.init(key, *a, **k)

  return jax.eval_shape(init, jax.random.key(0), arrays)
