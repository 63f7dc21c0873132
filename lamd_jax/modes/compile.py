# SPDX-License-Identifier: Apache-2.0
"""--mode=compile: the real training and sampling programs, compiled for a TPU or GPUs.

  python -m lamd_jax.main --config=configs/lvdm_sky.py --mode=compile
    --compile.topology=v5e:4x4 --config.optim.autoencoder.accumulate=1

Nothing is trained, and no device, weights or data are needed; minutes a program and some
GB of memory are. --compile.fast=True takes less, and memory reads otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from lamd_jax import ahead
from lamd_jax import config as config_lib
from lamd_jax import knobs
from lamd_jax import rng
from lamd_jax import types
from lamd_jax.errors import ConfigError
from lamd_jax.modes import advice
from lamd_jax.modes import dry_run
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.training import sharding
from lamd_jax.training import stage as stage_lib
from lamd_jax.training import state as state_lib
from lamd_jax.training import step as step_lib

Tree = Any


def _everywhere(tree: Tree, place: Any) -> Tree:
  return state_lib.abstract(tree, jax.tree.map(lambda _: place, tree))


def train_program(
  stage: stage_lib.Stage, config: ConfigDict, stages: list[stage_lib.Stage], mesh: Mesh
) -> tuple[Any, tuple[Any, ...]]:
  """Returns a stage's jitted step, in its dearest variant, and its abstract arguments."""
  optim = config.optim[stage.name]
  sharding.check_batch(mesh, optim.batch, optim.accumulate)
  frozen = dry_run._frozen(stage, config, stages)
  state = dry_run._abstract(state_lib.create(stage, optim, None))
  shardings = sharding.state_shardings(state, mesh)
  frozen_shardings = sharding.state_shardings(frozen, mesh)
  step = step_lib.build(
    stage,
    stage.variants[0],
    optim=optim,
    max_nonfinite=config.train.max_nonfinite,
    mesh=mesh,
    shardings=shardings,
    frozen_shardings=frozen_shardings,
  )
  batch = dry_run._batch(stage, config, frozen, optim.batch)
  root = jax.eval_shape(lambda: rng.root(0))
  return step, (
    state_lib.abstract(state, shardings),
    state_lib.abstract(frozen, frozen_shardings),
    _everywhere(root, sharding.replicated(mesh)),
    _everywhere(batch, sharding.batch_sharding(mesh)),
  )


def _prompt(system: Any, config: ConfigDict, rows: int) -> types.Prompt:
  data = config.data
  shape = lambda *dims, dtype=jnp.int32: jax.ShapeDtypeStruct((rows, *dims), dtype)
  pixels = (data.size, data.size)
  asks = data.depth != "none"
  return types.Prompt(
    tokens=shape(data.tokens) if data.tokenizer != "none" else None,
    label=shape() if config.model.motion.num_classes else None,
    image=shape(1, *pixels, 3, dtype=jnp.uint8) if system.animates_images else None,
    depth=shape(data.frames, *pixels, 1, dtype=jnp.uint8) if asks else None,
    structure_level=shape() if asks else None,
  )


def sample_program(
  system: Any, config: ConfigDict, sample: ConfigDict, mesh: Mesh
) -> tuple[Any, tuple[Any, ...]]:
  """Returns a jitted chain with decoding, `sample.batch` clips for each part of the
  mesh that cuts the batch, and its abstract arguments."""
  stages = system.stages()
  wanted = [s for s in stages if s.name in system.generates_with]
  weights: dict[str, Any] = {}
  for stage in wanted:
    params, extras = stage.init(None)
    weights[stage.name] = {"params": params, "extras": dry_run._abstract(extras)}
    weights |= dry_run._frozen(stage, config, stages)
  rows = sample.batch * sharding.batch_parts(mesh)
  settings = knobs.sampler(sample)

  def generate(weights, root, step, index, prompt):
    streams = rng.Streams(root, step)
    z = system.sample_latents(weights, streams, index, prompt, settings, 0)
    return system.decode(weights, z, prompt)

  whole, cut = sharding.replicated(mesh), sharding.batch_sharding(mesh)
  arguments = (
    state_lib.abstract(weights, sharding.state_shardings(weights, mesh)),
    _everywhere(jax.eval_shape(lambda: rng.root(0)), whole),
    _everywhere(jax.ShapeDtypeStruct((), jnp.int32), whole),
    _everywhere(jax.ShapeDtypeStruct((rows,), jnp.int32), cut),
    _everywhere(_prompt(system, config, rows), cut),
  )
  return jax.jit(generate, out_shardings=cut), arguments


class Slice(NamedTuple):
  """A system on devices that are not there."""

  system: Any
  config: ConfigDict
  topology: str
  mesh: Mesh
  fast: bool

  def compile(self, program: tuple[Any, tuple[Any, ...]]) -> ahead.Compiled:
    # Around the compilation alone: whatever else JAX computed inside, a random key
    # say, would be computed on these devices, which are not there.
    with jax.set_mesh(self.mesh):
      return ahead.compile_program(*program, self.topology, fast=self.fast)


def open_slice(config: ConfigDict, options: ConfigDict) -> Slice:
  """Returns the system of `config` on the slice of `--compile.topology`."""
  mesh = sharding.make_mesh(config.train.mesh, ahead.devices(options.topology))
  on_cards = options.topology.partition(":")[0] in ahead.CARDS
  if config.train.cudnn_attention and on_cards and not ahead.cudnn():
    raise ConfigError(
      "--config.train.cudnn_attention=True: compiling for"
      f" {options.topology} then needs cuDNN: pip install nvidia-cudnn-cu12"
    )
  # What `auto` means on a TPU or GPU; here a CPU compiles.
  dtype = jnp.float32 if config.train.compute == "float32" else jnp.bfloat16
  system = SYSTEMS[config.system](config, dtype)
  return Slice(system, config, options.topology, mesh, options.fast)


def _other_meshes(mesh: Mesh, state: Tree, frozen: Tree, others: int) -> dict[str, int]:
  """Bytes of the arguments on a device, by the cut of the batch's devices in two.

  A number of devices may divide no dimension of a kernel: it is then whole on each.
  """
  sizes = dict(mesh.shape)
  parts, found = sharding.batch_parts(mesh), {}
  for cut in (n for n in range(2, parts + 1) if parts % n == 0):
    sizes |= {"data": parts // cut, "fsdp": cut}
    name = ",".join(f"{axis}={size}" for axis, size in sizes.items() if size > 1)
    held = sum(sharding.bytes_on_device(x, sizes) for x in (state, frozen))
    found[name] = held + others
  return found


def train(place: Slice, name: str) -> tuple[ahead.Compiled, dict[str, int]]:
  """Compiles a stage's training step. Returns also what other meshes would hold."""
  stages = place.system.stages()
  stage = next(s for s in stages if s.name == name)
  function, arguments = train_program(stage, place.config, stages, place.mesh)
  found = place.compile((function, arguments))
  state, frozen, *others = arguments
  return found, _other_meshes(place.mesh, state, frozen, ahead.on_a_device(others))


def lines(name: str, found: ahead.Compiled, hints: Sequence[str]) -> list[str]:
  """The report of one program."""
  gib = advice.gib
  gap = gib(abs(found.available - found.needed)) if found.needed else "an unknown amount"
  needed = gib(found.needed) if found.needed else "an unknown amount"
  state = f"fits, {gap} to spare" if found.fits else f"does not fit, by {gap}"
  text = [f"{name}: {state}", f"  memory a device  {needed} of {gib(found.available)}"]
  text.append(f"  of it arguments  {gib(found.arguments)}")
  if found.fits:
    flops = f"{found.flops:.4g}, loops counted once" if found.flops else "not counted"
    text.append(f"  FLOPs a device   {flops}")
    for kind, (number, size) in sorted(found.collectives.items()):
      text.append(f"  {kind:<17}{number} with {size / 2**20:.1f} MiB")
  text.append(f"  compiled in      {found.seconds:.0f} s")
  text += [f"  try              {hint}" for hint in hints]
  return text


def sample_settings(config: ConfigDict, sample: ConfigDict) -> ConfigDict:
  """`--sample.*` with what 0 stands for."""
  settings = config_lib.sample_defaults()
  settings.update(sample)
  settings.guidance = knobs.guidance(settings, config)
  return settings


def run(config: ConfigDict, sample: ConfigDict, options: ConfigDict) -> int:
  """Compiles and reports; 0 if everything fits, 1 if something does not."""
  unknown = set(options.programs) - {"train", "sample"}
  if unknown:
    raise ConfigError(
      f"--compile.programs={','.join(options.programs)}: choose from train, sample"
    )
  place = open_slice(config, options)
  print(f"{config.name}:{config.variant} for {options.topology}, {place.mesh.size}"
        f" devices, mesh {config.train.mesh}", flush=True)  # fmt: skip
  fits, parts = True, sharding.batch_parts(place.mesh)
  for stage in place.system.stages():
    if "train" in options.programs and stage.name in config.stages:
      found, others = train(place, stage.name)
      hints = advice.of_training(stage.name, config, found, parts, others)
      print("\n".join(lines(f"train {stage.name}", found, hints)), flush=True)
      fits &= found.fits
  if "sample" in options.programs:
    settings = sample_settings(config, sample)
    program = sample_program(place.system, config, settings, place.mesh)
    found = place.compile(program)
    hints = advice.of_sampling(settings, found)
    print("\n".join(lines("sample", found, hints)), flush=True)
    fits &= found.fits
  return 0 if fits else 1
