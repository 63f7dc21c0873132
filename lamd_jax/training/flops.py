# SPDX-License-Identifier: Apache-2.0
"""Arithmetic of a program, counted from its jaxpr: convolutions and matrix products.

Two operations a multiply-add, everything else left out: the usual "model FLOPs". It
asks neither a compiler nor a device, and gives 361.8e9 for the forward pass of the
released sky UNet, what its authors' network was counted to do.
"""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

import jax

# cuDNN's attention, forward and its gradient: two and four products.
_FUSED = {"dot_product_attention_fwd_wrapper": 4, "dot_product_attention_bwd_wrapper": 8}


def count(function: Callable[..., Any], *args: Any) -> int:
  """Returns the operations of one call; `args` may be ShapeDtypeStructs."""
  return of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def of_jaxpr(jaxpr: Any) -> int:
  """The same of a program that is traced already."""
  return sum(_equation(eqn) for eqn in jaxpr.eqns)


def _equation(eqn: Any) -> int:
  if eqn.primitive.name == "dot_general":
    (contract, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    terms = math.prod(shape[i] for i in contract)
    return 2 * math.prod(eqn.outvars[0].aval.shape) * terms
  if eqn.primitive.name == "conv_general_dilated":
    spec = eqn.params["dimension_numbers"].rhs_spec  # output, input, then the window
    kernel = eqn.invars[1].aval.shape
    taps = math.prod(kernel) // kernel[spec[0]]
    # Zeros put between the pixels by a transposed convolution are no arithmetic.
    dilation = math.prod(eqn.params["lhs_dilation"])
    return 2 * math.prod(eqn.outvars[0].aval.shape) * taps // dilation
  if eqn.primitive.name in _FUSED:
    queries, keys = (v.aval.shape for v in eqn.invars[:2])  # [N,Q,H,D], [N,K,H,D]
    return _FUSED[eqn.primitive.name] * math.prod(queries) * keys[1]
  inner = [
    leaf
    for value in eqn.params.values()
    for leaf in (value if isinstance(value, (tuple, list)) else (value,))
  ]
  bodies = [getattr(leaf, "jaxpr", leaf) for leaf in inner]
  bodies = [body for body in bodies if hasattr(body, "eqns")]
  if eqn.primitive.name == "cond":
    if eqn.params.get("branches_platforms"):  # the plain form is the last
      return of_jaxpr(bodies[-1])
    return max(of_jaxpr(body) for body in bodies)
  times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
  return times * sum(of_jaxpr(body) for body in bodies)
