# SPDX-License-Identifier: Apache-2.0
"""--dry_run: shapes, parameters, steps and memory of a run; nothing is computed."""

from __future__ import annotations

from typing import Any

from clu import parameter_overview
from etils import epath
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import meshes
from lamd_jax import rng
from lamd_jax import types
from lamd_jax.errors import InputError
from lamd_jax.modes import imported
from lamd_jax.modes import preflight
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.tools import estimate
from lamd_jax.training import precision
from lamd_jax.training import sharding
from lamd_jax.training import stage as stage_lib
from lamd_jax.training import state as state_lib
from lamd_jax.training import step as step_lib


def _abstract(tree: Any) -> Any:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _frozen(
  stage: stage_lib.Stage, config: ConfigDict, stages: list[stage_lib.Stage]
) -> dict[str, Any]:
  """The shapes of what the stage reads and does not train."""
  by_name = {s.name: s for s in stages}
  frozen = {}
  for name in stage.needs:
    if imported.is_imported(name, config):
      frozen[name] = imported.SHAPES[name](config)
    else:
      params, extras = by_name[name].init(None)
      frozen[name] = {"params": params, "extras": _abstract(extras)}
  return frozen


def _batch(
  stage: stage_lib.Stage, config: ConfigDict, frozen: dict[str, Any], rows: int
) -> stage_lib.Batch:
  data = config.data
  shape = (rows, stage.frames, data.size, data.size, 3)
  tokens = None
  if data.tokenizer != "none":
    tokens = jax.ShapeDtypeStruct((rows, data.tokens), jnp.int32)
  batch = types.VideoBatch(
    jax.ShapeDtypeStruct(shape, jnp.uint8),
    jax.ShapeDtypeStruct((rows,), jnp.int32),
    jax.ShapeDtypeStruct((rows,), jnp.int32) if config.model.motion.num_classes else None,
    tokens,
    jax.ShapeDtypeStruct((*shape[:-1], 1), jnp.uint8)
    if data.depth not in ("none", "estimated")
    else None,
  )
  if config.train.latent_cache and stage.trains_on_latents:
    return jax.eval_shape(stage.encode, frozen, batch)
  return batch


def step_and_arguments(
  stage: stage_lib.Stage, config: ConfigDict, stages: list[stage_lib.Stage], devices: int
) -> tuple[Any, tuple[Any, ...]]:
  """Returns one device's share of a training step, and its abstract arguments."""
  optim = config.optim[stage.name]
  mesh = sharding.make_mesh("dp", jax.devices()[:1])
  frozen = _frozen(stage, config, stages)
  state = _abstract(state_lib.create(stage, optim, None))
  with jax.set_mesh(mesh):
    step = step_lib.build(
      stage,
      stage.variants[0],
      optim=optim,
      max_nonfinite=config.train.max_nonfinite,
      mesh=mesh,
      shardings=sharding.state_shardings(state, mesh),
      frozen_shardings=sharding.state_shardings(frozen, mesh),
    )
  batch = _batch(stage, config, frozen, optim.batch // devices)
  return step, (state, frozen, rng.root(0), batch)


def memory(
  stage: stage_lib.Stage, config: ConfigDict, stages: list[stage_lib.Stage], devices: int
) -> int:
  """Estimates bytes on each device while the stage trains."""
  step, arguments = step_and_arguments(stage, config, stages, devices)
  with jax.set_mesh(sharding.make_mesh("dp", jax.devices()[:1])):
    found = estimate.estimate(step, *arguments, platform=jax.default_backend())
  saved = 0
  if config.train.mesh == "fsdp" and devices > 1:
    # What each device does not hold of the state while it is not in use.
    size = sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(
      arguments[0]))  # fmt: skip
    saved = size - size // devices
  return found.total - saved


def run(config: ConfigDict, workdir: epath.Path) -> int:
  """Prints what would be run, and what is not there yet; returns the exit code."""
  devices = meshes.batch_parts(config.train.mesh, jax.device_count())
  dtype = precision.compute_dtype(config.train.compute)
  system = SYSTEMS[config.system](config, dtype)
  stages = system.stages()
  data, kind = config.data, jax.devices()[0].device_kind
  print(f"{config.name}:{config.variant} on {devices} x {kind}, mesh {config.train.mesh},"
        f" {jnp.dtype(dtype).name}")  # fmt: skip
  print(f"clip     {data.frames} x {data.size} x {data.size} x 3 uint8, every"
        f" {data.stride} frame(s), from {data.source} {data.root}")  # fmt: skip
  print(f"latent   {' x '.join(map(str, system.latent_shape))}")
  for stage in stages:
    if stage.name not in config.stages:
      continue
    optim = config.optim[stage.name]
    print(f"\nstage {stage.name}")
    for group, tree in stage.init(None)[0].items():
      count = parameter_overview.count_parameters(tree)
      print(f"  parameters {group:<14} {count:>13,}")
    print(f"  steps {optim.steps:,} of {optim.batch} clips ({optim.accumulate}"
          f" micro-batch(es)), {optim.steps * optim.batch:,} clips in all")  # fmt: skip
    print(f"  memory a device, estimated: {_size(memory(stage, config, stages, devices))}",
          flush=True)  # fmt: skip
  try:
    preflight.check_inputs(config, workdir)
  except InputError as error:
    print(f"\n{error}", flush=True)
  return 0


def _size(count: int) -> str:
  return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
