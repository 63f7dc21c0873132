# SPDX-License-Identifier: Apache-2.0
"""What `torch_zip` lets a pickle build, and how that becomes arrays.

A pickle can call what it is given and set attributes of what it made. So nothing here
acts when called, and nothing can be changed afterwards in a way that matters: a tensor
is a note of numbers, which `resolve` checks before an array is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import math
from typing import Any, NamedTuple

import numpy as np

from lamd_jax.errors import WeightsError

# A view may repeat its storage (stride 0), but not to any size.
_MAX_REPEATED = 1 << 20
# Containers within containers; resolving them recurses.
_MAX_DEPTH = 64


class StorageType(NamedTuple):
  name: str
  dtype: str


class Storage(NamedTuple):
  """A storage, or the elements of one from `start` on."""

  key: str
  type: StorageType
  total: int  # elements of the whole storage
  start: int
  numel: int


class Tensor:
  """A view of a storage, checked by `_view`."""

  __slots__ = ("view",)

  def __init__(self, *view: Any):
    self.view = view

  def __setstate__(self, state: Any) -> None:
    # PyTorch 0.1 made an empty tensor and set it afterwards.
    if self.view or not isinstance(state, tuple) or len(state) != 4:
      raise WeightsError("a tensor is changed after it was made")
    self.view = state


class Parameter:
  """A tensor in the wrapping of PyTorch before 0.4."""

  __slots__ = ("data",)

  def __new__(cls, data: Any = None, requires_grad: Any = True):
    del requires_grad
    parameter = super().__new__(cls)
    parameter.data = data
    return parameter

  def __setstate__(self, state: Any) -> None:
    # (requires_grad, volatile, hooks) or, oldest, (data, grad, hooks, ...).
    if isinstance(state, tuple) and len(state) == 5:
      self.data = state[0]


class Unknown:
  """Stands for an object of a class that is not on the list; holds nothing."""

  __slots__ = ()

  def __new__(cls, *args: Any, **kwargs: Any):
    del args, kwargs
    return super().__new__(cls)

  def __setstate__(self, state: Any) -> None:
    pass

  def append(self, value: Any) -> None:
    pass

  def extend(self, values: Any) -> None:
    pass

  def __setitem__(self, key: Any, value: Any) -> None:
    pass


class Function:
  """A callable that, unlike a function, a pickle cannot set attributes of."""

  __slots__ = ("_call",)

  def __init__(self, call: Callable[..., Any]):
    self._call = call

  def __call__(self, *args: Any) -> Any:
    return self._call(*args)

  def __setstate__(self, state: Any) -> None:
    raise WeightsError("a function is changed")


def _widen(array: np.ndarray, kind: str) -> np.ndarray:
  """Native byte order, and float32 for both 16-bit floats, which is exact."""
  if kind == "Half":
    return array.astype(np.float32)
  if kind == "BFloat16":
    return (array.astype(np.uint32) << 16).view(np.float32)
  return array.astype(array.dtype.newbyteorder("="), copy=False)


def _view(tensor: Tensor, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
  """Returns the array of a tensor; raises if it leaves its storage."""
  if len(tensor.view) != 4 or not isinstance(tensor.view[0], Storage):
    raise WeightsError("has a tensor without a storage")
  storage, offset, shape, strides = tensor.view
  axes = isinstance(shape, tuple) and isinstance(strides, tuple)
  if not axes or len(shape) != len(strides) or len(shape) > 32:
    raise WeightsError("has a tensor of unreadable shape")
  if not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
    raise WeightsError("has a tensor of unreadable shape")
  size = math.prod(shape)
  last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides))
  if size and last >= storage.numel or size > max(storage.numel, _MAX_REPEATED):
    raise WeightsError(
      f"has a tensor of shape {shape}, strides {strides}, offset {offset} in a storage"
      f" of {storage.numel} elements"
    )
  array = arrays[storage.key][storage.start + offset :]
  if not size:
    return _widen(np.empty(shape, array.dtype), storage.type.name)
  strides = [stride * array.itemsize for stride in strides]
  view = np.lib.stride_tricks.as_strided(array, shape, strides, writeable=False)
  return _widen(view, storage.type.name)


def resolve(root: Any, arrays: Mapping[str, np.ndarray]) -> Any:
  """Returns `root` with plain containers and arrays in place of records."""
  done: dict[int, Any] = {}  # an object may stand in many places

  def visit(node: Any, depth: int) -> Any:
    if id(node) in done:
      return done[id(node)]
    if depth > _MAX_DEPTH:
      raise WeightsError(f"nests more than {_MAX_DEPTH} containers, or contains itself")
    if isinstance(node, Tensor):
      value = _view(node, arrays)
    elif isinstance(node, Parameter):
      value = visit(node.data, depth + 1)
    elif isinstance(node, Storage | StorageType | Function):
      value = Unknown()
    elif isinstance(node, dict):
      # dict.items: a pickle may have put an attribute `items` on the object.
      value = {key: visit(item, depth + 1) for key, item in dict.items(node)}
    elif isinstance(node, list | tuple):
      value = type(node)([visit(item, depth + 1) for item in node])
    else:
      value = node
    done[id(node)] = value
    return value

  return visit(root, 0)
