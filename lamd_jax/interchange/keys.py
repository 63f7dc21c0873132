# SPDX-License-Identifier: Apache-2.0
"""Strict renaming, both ways, between a PyTorch state dict and our parameters.

A network's map is a list of rules, one per tensor:

  Rule("input_blocks.0.0.weight", ("conv_in", "kernel"), "conv")

`to_params` takes a state dict to nested parameters, `to_state` takes parameters back,
bit for bit. Both are strict: every name that is missing, unused or of the wrong shape
is listed in one `WeightsError`, in the names of the state dict. Layouts
(`Rule.layout`), PyTorch's shape on the left, ours on the right:

  copy              any           same       norms, biases, embeddings, tables
  dense             O,I           I,O        Linear
  conv              O,I,t,h,w     t,h,w,I,O  Conv3d
  conv2d            O,I,h,w       1,h,w,I,O  Conv2d, which we run on clips
  conv1d_as_dense   O,I,1         I,O        a pointwise Conv1d that we hold as Dense
  conv2d_as_dense   O,I,1,1       I,O        likewise
  conv3d_as_dense   O,I,1,1,1     I,O        likewise
  conv2d_as_vector  1,I,1,1       I          a pointwise Conv2d of one output
  conv_transpose    I,O,t,h,w     t,h,w,I,O  ConvTranspose3d, t, h and w reversed

A square matrix that was transposed cannot be told from a right one by its shape; only
numbers (tools.parity) show it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lamd_jax.errors import WeightsError

State = Mapping[str, np.ndarray]
Params = Mapping[str, Any]  # nested; leaves are arrays


class Rule(NamedTuple):
  """One tensor: its name in the state dict, its path in our tree, its layout."""

  source: str
  path: tuple[str, ...]
  layout: str


class _Layout(NamedTuple):
  """`rank` is that of our parameter, None for any."""

  rank: int | None
  to_params: Callable[[np.ndarray], np.ndarray]
  to_state: Callable[[np.ndarray], np.ndarray]


def _pointwise(axes: int) -> _Layout:
  ones = (1,) * axes
  return _Layout(
    2,
    lambda a: a.reshape(a.shape[:2]).T,
    lambda a: a.T.reshape(*a.T.shape, *ones),
  )


_LAYOUTS = {
  "copy": _Layout(None, lambda a: a, lambda a: a),
  "dense": _Layout(2, lambda a: a.T, lambda a: a.T),
  "conv": _Layout(
    5, lambda a: a.transpose(2, 3, 4, 1, 0), lambda a: a.transpose(4, 3, 0, 1, 2)
  ),
  "conv2d": _Layout(
    5, lambda a: a.transpose(2, 3, 1, 0)[None], lambda a: a[0].transpose(3, 2, 0, 1)
  ),
  "conv1d_as_dense": _pointwise(1),
  "conv2d_as_dense": _pointwise(2),
  "conv3d_as_dense": _pointwise(3),
  "conv2d_as_vector": _Layout(
    1, lambda a: a.reshape(-1), lambda a: a.reshape(1, -1, 1, 1)
  ),
  "conv_transpose": _Layout(
    5,
    lambda a: a[:, :, ::-1, ::-1, ::-1].transpose(2, 3, 4, 0, 1),
    lambda a: a.transpose(3, 4, 0, 1, 2)[:, :, ::-1, ::-1, ::-1],
  ),
}


def flatten(tree: Params, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
  """Returns {path: leaf} of nested dicts."""
  flat = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      flat.update(flatten(value, (*prefix, name)))
    else:
      flat[(*prefix, name)] = value
  return flat


def nest(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
  """The inverse of `flatten`."""
  tree: dict[str, Any] = {}
  for path, value in flat.items():
    node = tree
    for name in path[:-1]:
      node = node.setdefault(name, {})
    node[path[-1]] = value
  return tree


def source_shapes(
  expected: Params, rules: Iterable[Rule]
) -> dict[str, tuple[int, ...]]:
  """Returns {name in the state dict: its shape there}.

  Args:
    expected: our parameters, or their `jax.ShapeDtypeStruct`s.
    rules: the network's map.
  """
  flat = flatten(expected)
  # A zero-stride view costs no memory however large the tensor.
  dummy = lambda leaf: np.broadcast_to(np.float32(0), leaf.shape)
  turn = lambda rule: _LAYOUTS[rule.layout].to_state(dummy(flat[rule.path]))
  return {rule.source: turn(rule).shape for rule in rules}


def to_params(
  state: State,
  rules: Iterable[Rule],
  expected: Params,
  ignore: Collection[str] = (),
) -> dict[str, Any]:
  """Renames a state dict to nested parameters, of contiguous arrays.

  Args:
    state: {name: array}, PyTorch's names and layouts; any dtype, which is kept.
    rules: the network's map.
    expected: our parameters, or `initializers.shapes(module, ...)["params"]`: what
      shapes must come out and that every one of them does.
    ignore: names that may stand in `state` and are not read (aliases, buffers).

  Returns:
    The nested dict of parameters.

  Raises:
    WeightsError: lists all names that are missing, unused or of a wrong shape.
  """
  rules = list(rules)
  _check_map(rules, expected)
  shapes = source_shapes(expected, rules)
  missing = [f"{r.source} is missing" for r in rules if r.source not in state]
  unused = [f"{k} is unused" for k in state if k not in shapes and k not in ignore]
  misshaped = [
    f"{k} has shape {tuple(state[k].shape)}, expected {shape}"
    for k, shape in shapes.items()
    if k in state and tuple(state[k].shape) != shape
  ]
  _refuse(missing + unused + misshaped)
  flat = {}
  for rule in rules:
    value = _LAYOUTS[rule.layout].to_params(np.asarray(state[rule.source]))
    flat[rule.path] = np.ascontiguousarray(value).reshape(value.shape)
  return nest(flat)


def to_state(params: Params, rules: Iterable[Rule]) -> dict[str, np.ndarray]:
  """Renames parameters to a state dict, of contiguous arrays.

  Raises:
    WeightsError: lists all parameters without a rule, and rules without a parameter.
  """
  rules = list(rules)
  _check_map(rules, params)
  flat = flatten(params)
  state = {}
  for rule in rules:
    value = _LAYOUTS[rule.layout].to_state(np.asarray(flat[rule.path]))
    # ascontiguousarray makes a scalar one-dimensional; reshape undoes that.
    state[rule.source] = np.ascontiguousarray(value).reshape(value.shape)
  return state


def _check_map(rules: list[Rule], expected: Params) -> None:
  """A map must be one to one onto the parameters, or a tensor would be lost."""
  paths = {r.path: r for r in rules}
  sources = {r.source for r in rules}
  flat = flatten(expected)
  problems = [f"parameter {'/'.join(p)} has no rule" for p in flat if p not in paths]
  problems += [
    f"{r.source} has no parameter {'/'.join(p)}"
    for p, r in paths.items()
    if p not in flat
  ]
  problems += [
    f"{r.source} has layout {r.layout}, but its parameter is of rank"
    f" {len(flat[p].shape)}"
    for p, r in paths.items()
    if p in flat and _LAYOUTS[r.layout].rank not in (None, len(flat[p].shape))
  ]
  if not len(paths) == len(sources) == len(rules):
    problems.append(
      f"{len(rules)} rules for {len(sources)} names, {len(paths)} parameters"
    )
  _refuse(problems)


def _refuse(problems: list[str]) -> None:
  if problems:
    raise WeightsError(
      f"weights do not fit the network ({len(problems)} differences): "
      + "; ".join(problems)
    )


def unwrap(
  state: State, prefixes: Collection[str], wrapper: str, not_used: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Returns a network's tensors out of a whole model's, and the names left aside.

  Args:
    state: of the network, or of a model that holds it.
    prefixes: of the network's names in a model; the first that occurs counts.
    wrapper: a prefix that may stand around any name.
    not_used: prefixes of a model's other parts; anything else strange stays.

  Raises:
    WeightsError: a tensor stands there with and without a prefix.
  """
  inner = {name.removeprefix(wrapper): value for name, value in state.items()}
  prefix = next((p for p in prefixes if any(n.startswith(p) for n in inner)), "")
  found: dict[str, np.ndarray] = {}
  unused = []
  for name, value in inner.items():
    bare = name.removeprefix(prefix).removeprefix(wrapper)
    if name.startswith(not_used) and not (prefix and name.startswith(prefix)):
      unused.append(name)
    elif bare in found:
      raise WeightsError(f"{bare} is there twice, with and without a prefix")
    else:
      found[bare] = value
  return found, unused
