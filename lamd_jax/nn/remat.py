# SPDX-License-Identifier: Apache-2.0
"""Rematerialisation: blocks computed anew in the backward pass, for less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax

CHOICES = ("none", "full", "names")


def wrap(function: Callable[..., Any], how: str) -> Callable[..., Any]:
  """Returns `function(block, *arrays)`, which calls a Flax module, rematerialised.

  Args:
    function: called inside a compact method; the block is a child of its module.
    how: none; full keeps the arrays alone for the backward pass; names keeps what the
      block named "conv" too (`jax.ad_checkpoint.checkpoint_name`).

  Raises:
    ValueError: another `how`.
  """
  if how not in CHOICES:
    raise ValueError(f"remat is {how!r}; choose from {CHOICES}")
  if how == "none":
    return function
  policy = None
  if how == "names":
    policy = jax.checkpoint_policies.save_only_these_names("conv")
  return nn.remat(function, policy=policy)


def caller(how: str) -> Callable[[nn.Module, jax.Array], jax.Array]:
  """Returns what calls a block with one array: `caller(how)(block, x)`."""
  return wrap(lambda block, x: block(x), how)
