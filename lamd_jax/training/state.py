# SPDX-License-Identifier: Apache-2.0
"""The training state: all that a checkpoint holds beside the place in the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict
import numpy as np

from lamd_jax.training import optimizers
from lamd_jax.training.stage import Stage, Tree


class Guard(NamedTuple):
  """Counters of steps that were skipped because a number was not finite.

  Steps are counted from 1; 0 means never. They live in the state, on the device, so
  that nothing has to be fetched at each step and a resumed run keeps counting.
  """

  in_row: Any  # [] int32, skipped steps up to now without a good one between
  skipped: Any  # [] int32, in all
  last: Any  # [] int32, the last skipped step
  tripped: Any  # [] int32, the step at which in_row reached the limit


class State(NamedTuple):
  """What one step turns into the next. Donated to the step, hence never to be kept."""

  step: Any  # [] int32, steps done
  params: dict[str, Tree]  # by parameter group, float32
  ema: dict[str, Tree]  # moving averages of the groups that keep one
  opt_state: dict[str, Tree]  # by parameter group
  extras: Tree  # the stage's own: running statistics and the like
  guard: Guard


def create(
  stage: Stage,
  optim: ConfigDict,
  seed: int | None,
  earlier: Mapping[str, Tree] | None = None,
) -> State:
  """Returns the state before the first step, as NumPy arrays.

  Args:
    stage: what is trained.
    optim: its `config.optim`.
    seed: of its parameters; None gives shapes.
    earlier: weights of the stage that it goes on from; None for none.
  """
  params, extras = stage.init(seed)
  if earlier is not None:
    params, extras = stage.start(params, extras, earlier)
  if set(params) != set(stage.groups):
    raise ValueError(
      f"stage {stage.name}: init returned groups {sorted(params)}, declared are"
      f" {sorted(stage.groups)}"
    )
  optimizer = optimizers.make(optim)
  zero = lambda: np.zeros((), np.int32)
  return State(
    step=zero(),
    params=params,
    ema={g: params[g] for g in stage.averaged},
    opt_state={g: optimizers.init(optimizer, params[g]) for g in stage.groups},
    extras=extras,
    guard=Guard(zero(), zero(), zero(), zero()),
  )


def abstract(tree: Tree, shardings: Tree) -> Tree:
  """Returns a tree as ShapeDtypeStructs with shardings.

  That of a state is what a checkpoint is restored onto.
  """
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
  )


def averaged(params: dict[str, Tree], ema: dict[str, Tree]) -> dict[str, Tree]:
  """Returns the parameters, averages in place of raw ones where they exist."""
  return {**params, **ema}
