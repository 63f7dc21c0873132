# SPDX-License-Identifier: Apache-2.0
"""Three choices of ours against what one would do without them, in one run.

    python -m benchmarks.choices --repeats=5

  guidance  a denoiser asked once for conditional and unconditional rows together, over
            two calls (configs/lvdm_cater.py:demo)
  cache     a training step on cached latents over one that encodes its clips
            (configs/lvdm_sky.py:demo, diffusion)
  decode    8 clips decoded so many at a time, over one at a time (likewise)

Weights and inputs are random. The programs of a case take turns in one process, so that
ratios hold on a busy machine; processor seconds are over two threads. MiB are the
compiler's: temporaries and outputs of the program.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.accelerator import _filled
from lamd_jax import command_line
from lamd_jax import types
from lamd_jax.diffusion import guidance as guidance_lib
from lamd_jax.modes import dry_run
from lamd_jax.nn import initializers
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.training import sharding

CLIPS = (1, 4)
CHUNKS = (1, 2, 4, 8)
_DECODED = 8
_WEIGHT = 8.0  # of guidance

# What one calls, and the MiB of its program.
Program = tuple[Callable[[], Any], float]


def _compiled(function: Any, *arguments: Any) -> tuple[Any, float]:
  program = function.lower(*arguments).compile()
  memory = program.memory_analysis()
  return program, (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 2**20


def _guidance(clips: int) -> dict[str, Program]:
  config = command_line.load_config("configs/lvdm_cater.py:demo")
  system = SYSTEMS[config.system](config)
  (stage,) = (s for s in system.stages() if s.name == "diffusion")
  frozen = dry_run._frozen(stage, config, system.stages())
  batch = jax.eval_shape(
    stage.encode, frozen, dry_run._batch(stage, config, frozen, clips)
  )
  z = _filled(jax.ShapeDtypeStruct(batch.mean.shape, jnp.float32))
  t = jnp.full((clips,), 500.0)
  width = config.model.text.width
  text = _filled(jax.ShapeDtypeStruct((clips, config.data.tokens, width), jnp.float32))
  told = types.Conditions(context=text)
  params = _filled(initializers.shapes(system.unets["diffusion"], z, t, told)["params"])
  null = lambda told: told._replace(context=0 * told.context)

  def together(params, z, t, told):
    denoise = system.denoiser("diffusion", params)
    return guidance_lib.classifier_free(denoise, null, _WEIGHT)(z, t, told)

  def apart(params, z, t, told):
    denoise = system.denoiser("diffusion", params)
    return _WEIGHT * denoise(z, t, told) + (1 - _WEIGHT) * denoise(z, t, null(told))

  made = {}
  for name, function in (("two calls", apart), ("together", together)):
    program, size = _compiled(jax.jit(function), params, z, t, told)
    made[name] = (lambda p=program: p(params, z, t, told)), size
  return made


def _cache() -> dict[str, Program]:
  made = {}
  for name, cached in (("encoding", False), ("cached", True)):
    config = command_line.load_config("configs/lvdm_sky.py:demo").unlock()
    config.train.latent_cache = cached
    stages = SYSTEMS[config.system](config).stages()
    (stage,) = (s for s in stages if s.name == "diffusion")
    step, arguments = dry_run.step_and_arguments(stage, config, stages, 1)
    mesh = sharding.make_mesh("dp", jax.devices()[:1])
    with jax.set_mesh(mesh):
      program, size = _compiled(step, *arguments)
    state, *rest = _filled(arguments)
    held = {"state": state}  # donated at each call

    def call(program=program, held=held, rest=rest):
      held["state"], report = program(held["state"], *rest)
      return report.metrics

    made[name] = call, size
  return made


def _decode() -> dict[str, Program]:
  config = command_line.load_config("configs/lvdm_sky.py:demo")
  system = SYSTEMS[config.system](config)
  stages = {s.name: s for s in system.stages()}
  frozen = dry_run._frozen(stages["diffusion"], config, list(stages.values()))
  batch = dry_run._batch(stages["diffusion"], config, frozen, _DECODED)
  if not isinstance(batch, types.LatentBatch):
    batch = jax.eval_shape(stages["diffusion"].encode, frozen, batch)
  weights, latents = _filled(frozen), np.asarray(_filled(batch.mean))
  decode = jax.jit(lambda w, z: system.decode(w, z, types.Prompt()))
  made = {}
  for chunk in CHUNKS:
    parts = latents.reshape(-1, chunk, *latents.shape[1:])
    program, size = _compiled(decode, weights, jnp.asarray(parts[0]))
    call = lambda p=program, parts=parts: [np.asarray(p(weights, z)) for z in parts]
    made[f"{chunk} at a time"] = call, size
  return made


def compare(programs: dict[str, Program], repeats: int) -> dict[str, harness.Sample]:
  """Lets the programs take turns; returns the least times of each."""
  times: dict[str, list[harness.Sample]] = {name: [] for name in programs}
  for call, _ in programs.values():
    jax.block_until_ready(call())
  for _ in range(repeats):
    for name, (call, _) in programs.items():
      wall, cpu = time.perf_counter(), time.process_time()
      jax.block_until_ready(call())
      took = time.perf_counter() - wall, time.process_time() - cpu
      times[name].append(harness.Sample(*took))
  return {
    name: harness.Sample(min(s.wall for s in x), min(s.cpu for s in x))
    for name, x in times.items()
  }


def _cases() -> Iterator[tuple[str, dict[str, Program]]]:
  for clips in CLIPS:
    yield f"guidance, {clips} clip(s)", _guidance(clips)
  yield "cache", _cache()
  yield f"decode, {_DECODED} clips", _decode()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--repeats", type=int, default=5)
  flags = parser.parse_args()
  print(harness.machine(), "\n", flush=True)
  rows = []
  for case, programs in _cases():
    found = compare(programs, flags.repeats)
    base = next(iter(found.values()))
    for name, took in found.items():
      ratios = f"{took.wall / base.wall:.2f}", f"{took.cpu / base.cpu:.2f}"
      seconds = f"{took.wall:.3f} / {took.cpu / 2:.3f}"
      rows.append((case, name, seconds, *ratios, f"{programs[name][1]:.0f}"))
  head = ("case", "program", "seconds: wall / cpu/2", "of the first", "by cpu", "MiB")
  print(harness.table(head, rows))


if __name__ == "__main__":
  main()
