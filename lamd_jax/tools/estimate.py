# SPDX-License-Identifier: Apache-2.0
"""Memory of a program, estimated from its jaxpr: tracing only, nothing is compiled.

Compiling a training step takes minutes; whether it fits should be known before. The
estimate plays the compiler on the flattened program:

1. calls, rematerialised blocks and the branch of the platform in question are written
   out in one list, and what no output needs is dropped;
2. cheap elementwise work is taken to be fused into what reads it, and so to need no
   room of its own; everything else gets a buffer (`_plan`);
3. a walk over the list, with every buffer freed after its last reader, gives the
   largest sum of buffers alive at once (`_peak`).

Arguments and outputs are exact; the sum of live buffers is a model of what XLA does and
is off by up to a fifth, mostly too low (tests hold it to that, against the compiler's
own figures; its rules were read off XLA's CPU backend: on a GPU or TPU it is a guide).
It is not the process's memory: Python, the compiler and the input pipeline come on top.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Sequence
import math
from typing import Any, NamedTuple

import jax
import jax.extend
import numpy as np

# Read element by element inside a loop over somebody else's output.
_FUSED = frozenset(
  "abs add and broadcast_in_dim ceil clamp convert_element_type copy div eq exp exp2"
  " expand_dims expm1 floor ge gt integer_pow iota is_finite le log log1p logistic lt"
  " max min mul ne neg not or pad pow real rem reshape rev round rsqrt select_n"
  " shift_left shift_right_arithmetic shift_right_logical sign sin cos slice sqrt"
  " square squeeze stop_gradient sub tan tanh transpose xor erf erf_inv add_any"
  " reduce_precision sharding_constraint optimization_barrier nextafter"
  " bitcast_convert_type empty empty2 split".split()
)
# Too costly to compute once more for a second reader; those results are kept.
_COSTLY = frozenset(
  "div exp exp2 expm1 log log1p logistic pow rsqrt sin cos sqrt tan tanh erf erf_inv"
  " rem".split()
)
# Computed again for each reader, whoever else reads them.
_FREE = frozenset("broadcast_in_dim iota convert_element_type empty empty2".split())
# No work at all: the result is the operand under another name.
_VIEWS = frozenset(
  "reshape squeeze expand_dims stop_gradient sharding_constraint".split()
)
_REDUCTIONS = frozenset(
  "reduce_sum reduce_max reduce_min reduce_and reduce_or argmax argmin".split()
)
# Where a call keeps its body, and where control flow does.
_BODIES = {
  "scan": lambda params: (params["jaxpr"],),
  "while": lambda params: (params["body_jaxpr"],),
  "cond": lambda params: params["branches"],
}
# What XLA's order of execution keeps alive longer than the program's, a mean over
# training steps of UNets and autoencoders.
_STRETCH = 1.06
_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class Estimate(NamedTuple):
  """Bytes. The names are those of `compiled.memory_analysis()`."""

  arguments: int
  outputs: int
  aliased: int  # outputs that take over a donated argument's memory
  temporaries: int

  @property
  def total(self) -> int:
    return self.arguments + self.outputs - self.aliased + self.temporaries


class _Op(NamedTuple):
  name: str
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  workspace: int  # bytes used only while it runs
  key: str  # with name and inputs it tells which operations are the same


class _Program:
  """A flattened jaxpr: operations on numbered values."""

  def __init__(self, platform: str):
    self.platform = platform
    self.size: list[int] = []  # bytes of each value
    self.ops: list[_Op] = []
    self.literals: dict[tuple[str, str], int] = {}

  def new(self, aval: Any) -> int:
    self.size.append(_bytes(aval))
    return len(self.size) - 1

  def literal(self, literal: Any) -> int:
    """A value per number, so that operations on equal numbers look equal."""
    key = (repr(literal.val), str(literal.aval))
    if key not in self.literals:
      self.literals[key] = self.new(literal.aval)
    return self.literals[key]

  def add(self, jaxpr: Any, inputs: Sequence[int]) -> list[int]:
    """Appends a jaxpr's equations; returns the values of its outputs."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    value: dict[Any, int] = dict(zip(jaxpr.invars, inputs))
    value.update({v: self.new(v.aval) for v in jaxpr.constvars})
    read = lambda v: value[v] if isinstance(v, jax.extend.core.Var) else self.literal(v)
    for eqn in jaxpr.eqns:
      outputs = self._equation(eqn, [read(v) for v in eqn.invars])
      value.update(zip(eqn.outvars, outputs))
    return [read(v) for v in jaxpr.outvars]

  def _equation(self, eqn: Any, inputs: list[int]) -> list[int]:
    name, params = eqn.primitive.name, eqn.params
    if name == "cond" and params.get("branches_platforms"):
      # The branches of lax.platform_dependent; the first operand is the choice.
      chosen = self._branch(params["branches_platforms"])
      return self.add(params["branches"][chosen], inputs[1:])
    if name not in _BODIES:
      inner = next((params[k] for k in _CALLS if k in params), None)
      if inner is not None:
        return self.add(inner, inputs)
    if name in _VIEWS:
      # A buffer under another name.
      return inputs[:1]
    outputs = [self.new(v.aval) for v in eqn.outvars]
    key = str(id(eqn)) if name in _BODIES else repr(sorted(params.items(), key=str))
    op = _Op(name, tuple(inputs), tuple(outputs), self._workspace(eqn), key)
    self.ops.append(op)
    return outputs

  def _branch(self, platforms: Sequence[tuple[str, ...] | None]) -> int:
    for i, names in enumerate(platforms):
      if names is None or self.platform in names:
        return i
    raise ValueError(f"no branch for {self.platform} among {platforms}")

  def _workspace(self, eqn: Any) -> int:
    bodies = _BODIES.get(eqn.primitive.name, lambda params: ())(eqn.params)
    if eqn.primitive.name == "conv_general_dilated" and self.platform == "cpu":
      # A padded or transposed copy of each operand.
      return sum(_bytes(v.aval) for v in eqn.invars)
    return max((_body_peak(b, self.platform) for b in bodies), default=0)


def _body_peak(body: Any, platform: str) -> int:
  """What the body of a loop or a branch needs beside its operands."""
  program = _Program(platform)
  inputs = [program.new(v.aval) for v in body.jaxpr.invars]
  outputs = program.add(body, inputs)
  ops = _needed(program.ops, outputs)
  return _peak(program.size, ops, inputs, outputs, outputs_count=True)


def _bytes(aval: Any) -> int:
  if not hasattr(aval, "shape") or not hasattr(aval, "dtype"):
    return 0
  if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key):
    return 8 * math.prod(aval.shape)
  return math.prod(aval.shape) * np.dtype(aval.dtype).itemsize


def _merged(program: _Program, outputs: Sequence[int]) -> list[int]:
  """Merges operations that do the same to the same values; returns the outputs.

  XLA drops the barriers around rematerialised blocks on CPUs and then does just this,
  which undoes the rematerialisation.
  """
  known: dict[Any, tuple[int, ...]] = {}
  same: dict[int, int] = {}
  ops = []
  for op in program.ops:
    op = op._replace(inputs=tuple(same.get(v, v) for v in op.inputs))
    key = (op.name, op.inputs, op.key)
    if op.name == "optimization_barrier":
      same.update(zip(op.outputs, op.inputs))
    elif key in known:
      same.update(zip(op.outputs, known[key]))
    else:
      known[key] = op.outputs
      ops.append(op)
  program.ops[:] = ops
  return [same.get(v, v) for v in outputs]


def _needed(ops: Sequence[_Op], outputs: Iterable[int]) -> list[_Op]:
  """Drops the operations that no output depends on."""
  needed, kept = set(outputs), []
  for op in reversed(ops):
    if needed.intersection(op.outputs):
      needed.update(op.inputs)
      kept.append(op)
  return kept[::-1]


class _Plan(NamedTuple):
  buffered: set[int]  # values that get memory
  kept: set[int]  # those of them that every later reader reads


def _plan(ops: Sequence[_Op], outputs: Iterable[int]) -> _Plan:
  """Decides which values get memory.

  The results of convolutions and other heavy work do, and what such work reads. Of the
  elementwise values, those that cost much or that are summed over, if several read
  them. The others are computed inside the loop of their reader, for each reader anew,
  even where memory holds them for another one: what they come from stays alive.
  """
  buffered, kept = set(outputs), set()
  readers: dict[int, int] = {}
  summed: set[int] = set()
  broadcast = {op.outputs[0] for op in ops if op.name == "broadcast_in_dim"}
  sums = _sums(ops)
  for op in reversed(ops):
    v = op.outputs[0]
    many = readers.get(v, 0) > 1
    if op.name not in _FUSED:
      buffered.update(op.outputs)
      kept.update(op.outputs)
    elif many and op.name not in _FREE:
      costly = op.name in _COSTLY
      if op.name == "div":
        # By something broadcast: a product with the reciprocal.
        costly = op.inputs[1] not in broadcast
      if costly or (v in summed and v not in sums):
        buffered.add(v)
        kept.add(v)
    for u in set(op.inputs):
      readers[u] = readers.get(u, 0) + 1
      if op.name in _REDUCTIONS or (op.name in _FUSED and v in summed and not many):
        summed.add(u)
      elif op.name not in _FUSED:
        buffered.add(u)
  return _Plan(buffered, kept)


def _sums(ops: Sequence[_Op]) -> set[int]:
  """Sums of several convolutions: XLA keeps the terms and adds them for each reader."""
  terms = {}
  for op in ops:
    if op.name == "conv_general_dilated":
      terms[op.outputs[0]] = 1
    elif op.name in ("add", "add_any", "slice"):
      terms[op.outputs[0]] = sum(terms.get(v, 0) for v in op.inputs)
  return {v for v, count in terms.items() if count > 1}


def _early(ops: Sequence[_Op], arguments: Iterable[int]) -> list[_Op]:
  """Moves to the front what depends on arguments alone, as XLA's scheduler does."""
  ready, early, late = set(arguments), [], []
  made = {v for op in ops for v in op.outputs}
  for op in ops:
    light = op.name in _FUSED or op.name == "concatenate"
    if light and all(v in ready or v not in made for v in op.inputs):
      ready.update(op.outputs)
      early.append(op)
    else:
      late.append(op)
  return early + late


def _peak(
  size: Sequence[int],
  ops: Sequence[_Op],
  arguments: Iterable[int],
  outputs: Sequence[int],
  outputs_count: bool,
) -> int:
  """The most memory that temporaries take at once."""
  arguments = set(arguments)
  ops = _early(ops, arguments)
  buffered, kept = _plan(ops, outputs)
  source: dict[int, frozenset[int]] = {v: frozenset() for v in arguments}
  stored = lambda v: frozenset((v,)) if v in buffered else source.get(v, frozenset())
  virtual = lambda v: stored(v) if v in kept else source.get(v, frozenset())
  reads: list[frozenset[int]] = []
  for op in ops:
    read = frozenset().union(*map(virtual, op.inputs))
    source.update({v: read for v in op.outputs})
    if op.name not in _FUSED and op.name not in _REDUCTIONS:
      read = frozenset().union(*map(stored, op.inputs))
    reads.append(read - arguments)
  last = {v: i for i, op in enumerate(ops) for v in (*reads[i], *op.outputs)}
  final = frozenset().union(*map(stored, outputs))
  counted = lambda v: size[v] if outputs_count or v not in final else 0
  live = peak = 0
  for i, op in enumerate(ops):
    made = [v for v in op.outputs if v in buffered]
    if not made:
      continue
    dying = [v for v in reads[i] if last[v] == i and v not in final]
    new = sum(map(counted, made))
    in_place = op.name in _FUSED and any(size[v] == size[made[0]] for v in dying)
    peak = max(peak, live + op.workspace + (0 if in_place else new))
    live += new - sum(map(counted, dying))
    live -= sum(counted(v) for v in made if last[v] == i and v not in final)
  return peak


def estimate(
  function: Callable[..., Any], *args: Any, platform: str = "cpu"
) -> Estimate:
  """Estimates the memory of one call of `function` on one device.

  Args:
    function: what is to be compiled; if it is jitted, its donations are counted.
    *args: its arguments; arrays may be ShapeDtypeStructs. Give the share of one device:
      a local batch, and the local part of a sharded state.
    platform: cpu | gpu | tpu, where the program is to run.
  """
  # Traced by itself: inside another trace it could have no compiler options.
  jitted = function if isinstance(function, jax.stages.Wrapped) else jax.jit(function)
  traced = jitted.trace(*args)
  closed, shapes = traced.jaxpr, traced.out_info
  program = _Program(platform)
  inputs = [program.new(v.aval) for v in closed.jaxpr.invars]
  outputs = program.add(closed, inputs)
  if platform == "cpu":
    outputs = _merged(program, outputs)
  ops = _needed(program.ops, outputs)
  # The compiler drops arguments that nothing reads.
  read = {v for op in ops for v in op.inputs} | set(outputs)
  temporaries = _peak(program.size, ops, inputs, outputs, outputs_count=False)
  sizes = [_bytes(x) for x in jax.tree.leaves(shapes)]
  return Estimate(
    arguments=sum(program.size[v] for v in inputs if v in read),
    outputs=sum(sizes),
    aliased=_aliased(jax.tree.leaves(traced.args_info), sizes),
    temporaries=round(_STRETCH * temporaries),
  )


def _aliased(arguments: Sequence[Any], outputs: Sequence[int]) -> int:
  """Bytes of outputs that fit a donated argument."""
  free = collections.Counter(_bytes(given) for given in arguments if given.donated)
  wanted = collections.Counter(outputs)
  return sum(size * count for size, count in (free & wanted).items())
