# SPDX-License-Identifier: Apache-2.0
"""A stage's gradients or step on a mesh, and how far they are from those on one device."""

from __future__ import annotations

import zlib

import jax
import numpy as np

from lamd_jax import rng
from lamd_jax.training import sharding
from lamd_jax.training import state as state_lib
from lamd_jax.training import step as step_lib


def filled(tree, seed=0):
  """Adds noise by path: layers that start at zero would hide what is behind them."""

  def one(path, x):
    x = np.asarray(x)
    if x.dtype != np.float32:
      return x
    name = f"{seed}{jax.tree_util.keystr(path)}"
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(x.shape)
    return (x + 0.05 * draw).astype(np.float32)

  return jax.tree_util.tree_map_with_path(one, tree)


def gradients_on(stage, frozen, batch, preset, devices, variant):
  """Returns (gradients, losses); less to compile than a whole step."""
  mesh = sharding.make_mesh(preset, jax.devices()[:devices])
  params, extras = stage.init(0)
  params = filled(params)
  trees = (params, extras, {**frozen, stage.name: {"params": params}})
  cut = [sharding.state_shardings(tree, mesh, min_bytes=1) for tree in trees]
  groups = stage.trained(variant)
  streams = rng.Streams(jax.device_put(rng.root(0), sharding.replicated(mesh)), 0)

  def total(trained, params, extras, frozen, batch):
    output = stage.forward(params | trained, extras, frozen, batch, streams, variant)
    named = {f"loss/{group}": loss for group, loss in output.losses.items()}
    return sum(named.values()), named

  with jax.set_mesh(mesh):
    of_groups = {group: cut[0][group] for group in groups}
    differentiate = jax.jit(
      jax.grad(total, has_aux=True),
      out_shardings=(of_groups, sharding.replicated(mesh)),
    )
    trees = [sharding.place(tree, where) for tree, where in zip(trees, cut)]
    trained = {group: trees[0][group] for group in groups}
    return jax.device_get(
      differentiate(trained, *trees, sharding.place_batch(batch, mesh))
    )


def step_on(stage, optim, frozen, batch, preset, devices, variant=None):
  """Returns (moments, losses): Adam's first moment is 0.1 x the gradient.

  Two steps are made, and forward must be traced once.
  """
  mesh = sharding.make_mesh(preset, jax.devices()[:devices])
  state = state_lib.create(stage, optim, 0)
  state = state._replace(params=filled(state.params))
  shardings = sharding.state_shardings(state, mesh, min_bytes=1)
  frozen_shardings = sharding.state_shardings(frozen, mesh, min_bytes=1)
  original, traces = stage.forward, []

  def counted(*args):
    traces.append(1)
    return original(*args)

  stage.forward = counted
  try:
    with jax.set_mesh(mesh):
      step = step_lib.build(
        stage,
        variant or stage.variants[-1],
        optim=optim,
        max_nonfinite=3,
        mesh=mesh,
        shardings=shardings,
        frozen_shardings=frozen_shardings,
      )
      root = jax.device_put(rng.root(0), sharding.replicated(mesh))
      frozen = sharding.place(frozen, frozen_shardings)
      placed = sharding.place_batch(batch, mesh)
      state, report = step(sharding.place(state, shardings), frozen, root, placed)
      found = jax.device_get(({g: s[0].mu for g, s in state.opt_state.items()},
                              report.metrics))  # fmt: skip
      step(state, frozen, root, placed)
  finally:
    stage.forward = original
  assert len(traces) == 1, f"the step was traced {len(traces)} times"
  return found


def worst(found, expected):
  """The largest relative difference of a loss and of a leaf's gradient, with its path.

  A leaf's is ||a - b|| / ||b||. Biases in front of a norm that takes them out again
  have the gradient 0 and show rounding alone: a leaf counts as no smaller than 0.006 of
  all, so that at a limit of 1e-5 float32's epsilon of all, 6e-8, passes.
  """
  moments, losses = expected
  leaves = jax.tree_util.tree_leaves_with_path(moments)
  floor = 6e-3 * np.sqrt(sum(np.sum(np.square(x)) for _, x in leaves))
  gradients = max(
    (float(np.linalg.norm(a - b) / max(np.linalg.norm(b), floor)),
     jax.tree_util.keystr(path))
    for (path, b), a in zip(leaves, jax.tree.leaves(found[0]), strict=True)
  )  # fmt: skip
  loss = max(
    abs(float(found[1][k]) - float(v)) / max(abs(float(v)), 1e-6)
    for k, v in losses.items()
    if k.startswith("loss")
  )
  return loss, gradients
