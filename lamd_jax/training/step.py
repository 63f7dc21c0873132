# SPDX-License-Identifier: Apache-2.0
"""The compiled training step: one pure function (state, batch) -> (state, report).

In order: gradients of the sum of the groups' losses, over micro-batches; one global
norm per group; the finite guard; clip, update and average, per group; counters. If any
loss or gradient is not finite, everything but the counters stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import os
from typing import NamedTuple

import chex
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import jax.numpy as jnp
from ml_collections import ConfigDict
import optax

from lamd_jax import rng
from lamd_jax.training import bundles
from lamd_jax.training import optimizers
from lamd_jax.training import sharding
from lamd_jax.training import state as state_lib
from lamd_jax.training.stage import Batch, Frozen, Stage, StageOutput, Tree
from lamd_jax.training.state import Guard, State


class Report(NamedTuple):
  """What a step says about itself; small, replicated, fetched only to be logged."""

  metrics: dict[str, jax.Array]  # float32 scalars
  guard: Guard


# (state, frozen, root key, batch) -> (state, report)
Step = Callable[[State, Frozen, jax.Array, Batch], tuple[State, Report]]


class _Plan(NamedTuple):
  """What is static about a step."""

  stage: Stage
  variant: str
  groups: tuple[str, ...]  # those that this variant trains
  optim: ConfigDict
  max_nonfinite: int
  mesh: Mesh
  shardings: State  # a NamedSharding for each array of the state


def build(
  stage: Stage,
  variant: str,
  *,
  optim: ConfigDict,
  max_nonfinite: int,
  mesh: Mesh,
  shardings: State,
  frozen_shardings: Tree,
) -> Step:
  """Returns the jitted step of one variant; it compiles when first called.

  Args:
    stage: what is trained.
    variant: one of `stage.variants`.
    optim: the stage's `config.optim`.
    max_nonfinite: skipped steps in a row at which the guard trips.
    mesh: the mesh; the caller is inside `jax.set_mesh(mesh)`.
    shardings: a NamedSharding for each array of the state, which is donated.
    frozen_shardings: likewise for `frozen`.
  """
  groups = stage.trained(variant)
  plan = _Plan(stage, variant, groups, optim, max_nonfinite, mesh, shardings)
  whole = sharding.replicated(mesh)
  return jax.jit(
    functools.partial(_step, plan),
    in_shardings=(shardings, frozen_shardings, whole, sharding.batch_sharding(mesh)),
    out_shardings=(shardings, whole),
    donate_argnums=0,
    compiler_options=_compiler_options(mesh),
  )


def _compiler_options(mesh: Mesh) -> dict[str, int]:
  """On CPUs a quarter of the compile time is for passes that make no step faster."""
  on_cpu = mesh.devices.flat[0].platform == "cpu"
  chosen = "xla_backend_optimization_level" in os.environ.get("XLA_FLAGS", "")
  return {"xla_backend_optimization_level": 1} if on_cpu and not chosen else {}


def _step(
  plan: _Plan, state: State, frozen: Frozen, root: jax.Array, batch: Batch
) -> tuple[State, Report]:
  """The step itself, in the order of the docstring above."""
  groups, optim = plan.groups, plan.optim
  streams = rng.Streams(root, state.step)
  gradients, output = _gradients(plan, state, frozen, batch, streams)
  large = bundles.LARGE if optimizers.elementwise(optim) else 0
  packing = {
    g: bundles.Bundles(state.params[g], plan.shardings.params[g], large)
    for g in groups
  }
  packed = {g: packing[g].pack(gradients[g]) for g in groups}
  norms = {g: optimizers.global_norm(packed[g]) for g in groups}
  numbers = [*output.losses.values(), *norms.values()]
  finite = jnp.all(jnp.isfinite(jnp.stack(numbers)))
  guard = _count(state.guard, finite, state.step + 1, plan.max_nonfinite)
  updates = state.step - state.guard.skipped  # made before this step

  old = _Changing(
    params={g: packing[g].pack(state.params[g]) for g in groups},
    ema={g: packing[g].pack(x) for g, x in state.ema.items() if g in groups},
    opt_state={g: packing[g].pack_state(state.opt_state[g]) for g in groups},
    extras=state.extras,
  )
  # A branch, not a select: XLA fuses nothing across it. Fused into the arithmetic,
  # the unpacking below would repeat it for every array, and compile six times longer.
  new = jax.lax.cond(
    finite,
    lambda: _update(optim, old, packed, norms, updates, output.extras),
    lambda: old,
  )
  metrics = {
    **output.metrics,
    **{f"loss/{g}": output.losses[g] for g in groups},
    **{f"gradient_norm/{g}": norms[g] for g in groups},
    **{f"parameter_norm/{g}": optimizers.global_norm(x) for g, x in new.params.items()},
    "learning_rate": optimizers.learning_rate(optim)(updates),
    "skipped_steps": guard.skipped,
  }
  state = State(
    step=state.step + 1,
    params=state.params | {g: packing[g].unpack(x) for g, x in new.params.items()},
    ema=state.ema | {g: packing[g].unpack(x) for g, x in new.ema.items()},
    opt_state=state.opt_state
    | {g: packing[g].unpack_state(x) for g, x in new.opt_state.items()},
    extras=new.extras,
    guard=guard,
  )
  as_float = lambda x: jnp.asarray(x, jnp.float32)
  return state, Report(jax.tree.map(as_float, metrics), guard)


class _Changing(NamedTuple):
  """The parts of a state that a skipped step leaves alone; arrays are packed."""

  params: dict[str, Tree]
  ema: dict[str, Tree]
  opt_state: dict[str, Tree]
  extras: Tree


def _update(
  optim: ConfigDict,
  old: _Changing,
  gradients: dict[str, Tree],
  norms: dict[str, jax.Array],
  updates: jax.Array,
  extras: Tree,
) -> _Changing:
  """Clips, updates and averages each group, each by its own optimizer."""
  optimizer = optimizers.make(optim)
  decay = optimizers.ema_decay(optim, updates + 1)
  params, opt_state = {}, {}
  for g, gradient in gradients.items():
    clipped = optimizers.clip(gradient, norms[g], optim.clip_norm)
    changes, opt_state[g] = optimizer.update(clipped, old.opt_state[g], old.params[g])
    params[g] = optax.apply_updates(old.params[g], changes)
  ema = {
    g: optax.incremental_update(params[g], average, 1 - decay)
    for g, average in old.ema.items()
  }
  return _Changing(params, ema, opt_state, extras)


def _check(plan: _Plan, output: StageOutput, extras: Tree) -> None:
  """Checks, while tracing, that a stage keeps the protocol."""
  if set(output.losses) != set(plan.groups):
    raise ValueError(
      f"stage {plan.stage.name}: forward returned losses {sorted(output.losses)}, the"
      f" groups of {plan.variant} are {sorted(plan.groups)}"
    )
  # Otherwise the step would be traced again at its second call.
  chex.assert_trees_all_equal_shapes_and_dtypes(output.extras, extras)


def _gradients(
  plan: _Plan, state: State, frozen: Frozen, batch: Batch, streams: rng.Streams
) -> tuple[Tree, StageOutput]:
  """Returns the gradient of the summed losses, averaged over the micro-batches."""
  stage, parts = plan.stage, plan.optim.accumulate
  trained = {g: state.params[g] for g in plan.groups}
  shardings = {g: plan.shardings.params[g] for g in plan.groups}
  own = state_lib.averaged(state.params, state.ema)
  frozen = {**frozen, stage.name: {"params": own}}

  def total(params: Tree, extras: Tree, part: Batch):
    params = state.params | params
    output = stage.forward(params, extras, frozen, part, streams, plan.variant)
    _check(plan, output, extras)
    return sum(output.losses.values()), output

  differentiate = jax.grad(total, has_aux=True)
  if parts == 1:
    gradients, output = differentiate(trained, state.extras, batch)
    return sharding.constrain(gradients, shardings), output

  def one(carry: tuple[Tree, Tree], part: Batch):
    sums, extras = carry
    gradients, output = differentiate(trained, extras, part)
    sums = jax.tree.map(lambda s, g: s + g.astype(jnp.float32), sums, gradients)
    scalars = (output.losses, output.metrics)
    return (sharding.constrain(sums, shardings), output.extras), scalars

  zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), trained)
  carry = (sharding.constrain(zeros, shardings), state.extras)
  (sums, extras), scalars = jax.lax.scan(one, carry, _split(batch, parts, plan.mesh))
  losses, metrics = jax.tree.map(lambda x: jnp.mean(x, axis=0), scalars)
  gradients = jax.tree.map(lambda s: s / parts, sums)
  return gradients, StageOutput(losses, extras, metrics)


def _split(batch: Batch, parts: int, mesh: Mesh) -> Batch:
  """Cuts [B,...] into [parts, B/parts, ...]; part k holds the rows k, k+parts, ..."""
  placed = NamedSharding(mesh, PartitionSpec(None, sharding.BATCH_AXES))

  def one(x: jax.Array) -> jax.Array:
    # The other order, reshape(parts, B/parts), would move rows between devices.
    x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
    return jax.lax.with_sharding_constraint(x, placed)

  return jax.tree.map(one, batch)


def _count(guard: Guard, finite: jax.Array, step: jax.Array, limit: int) -> Guard:
  in_row = jnp.where(finite, 0, guard.in_row + 1)
  trips = (in_row >= limit) & (guard.tripped == 0)
  return Guard(
    in_row=in_row,
    skipped=guard.skipped + jnp.where(finite, 0, 1),
    last=jnp.where(finite, guard.last, step),
    tripped=jnp.where(trips, step, guard.tripped),
  )
