# SPDX-License-Identifier: Apache-2.0
"""What stands between a start and its first step: tracing and compiling, stage by stage.

    python -m benchmarks.compile_time --configs=configs/lvdm_sky.py:demo
    python -m benchmarks.compile_time --depth       # one UNet, deeper and wider

Each stage's training step is traced and compiled for one device of this machine, with
an empty compile cache and again with what the first time left there. Nothing is run. Of
every time the processor's seconds stand beside the clock's: on a machine that others
use the first are the program's. `benchmarks.first_step` times the whole start.

Parts are counted in the compiled program: fusions, products, convolutions and loops,
the pieces that the compiler writes code or a call for, by where the step asked for them.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Iterator
import re
import tempfile
import time
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from benchmarks import harness
from lamd_jax import command_line
from lamd_jax.modes import dry_run
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.training import compile_cache
from lamd_jax.training import precision
from lamd_jax.training import sharding

PARTS = ("forward", "backward", "update", "packing", "other")
_PIECE = re.compile(r"^\s+(?:ROOT )?%?\S+ = .*? (fusion|dot|convolution|while)\(")
_NAME = re.compile(r'op_name="([^"]*)"')
_BODY = re.compile(r"^%?\S*fused_computation\S* ")


class Spent(NamedTuple):
  """Seconds of one thing."""

  wall: float
  cpu: float

  def __str__(self) -> str:
    return f"{self.wall:.1f} / {self.cpu:.1f}"


class Measured(NamedTuple):
  """One training step on its way to the first call."""

  arrays: int  # of the parameters
  operations: int  # that are handed to the compiler
  trace: Spent
  cold: Spent  # compiling, cache empty
  cached: Spent
  parts: dict[str, int]


class _Clock:
  """`with _Clock() as clock: ...` and then clock.spent."""

  def __enter__(self) -> _Clock:
    self._start = time.perf_counter(), time.process_time()
    return self

  def __exit__(self, *_: object) -> None:
    wall, cpu = self._start
    self.spent = Spent(time.perf_counter() - wall, time.process_time() - cpu)


def part(name: str) -> str:
  """Says which of PARTS asked for an operation of this `op_name`."""
  if "transpose(jvp" in name:
    return "backward"
  if "jvp(" in name:
    return "forward"
  if "/cond/" in name:
    return "update"
  return "packing" if name.endswith(("/slice", "/concatenate")) else "other"


def count(text: str) -> dict[str, int]:
  """Counts the pieces of a compiled program, by part; bodies of fusions are one piece."""
  found = collections.Counter(dict.fromkeys(PARTS, 0))
  inside = False
  for line in text.splitlines():
    if line and not line[0].isspace():
      inside = bool(_BODY.match(line))
    elif not inside and _PIECE.match(line):
      name = _NAME.search(line)
      found[part(name[1] if name else "")] += 1
  return dict(found)


def measure(config: ConfigDict, name: str) -> Measured:
  """Traces and compiles one stage's step, for one device, twice; a cache is there."""
  system = SYSTEMS[config.system](config, precision.compute_dtype(config.train.compute))
  stages = system.stages()
  stage = next(stage for stage in stages if stage.name == name)
  step, arguments = dry_run.step_and_arguments(stage, config, stages, 1)
  with jax.set_mesh(sharding.make_mesh("one")):
    with _Clock() as trace:
      lowered = step.lower(*arguments)
    with _Clock() as cold:
      compiled = lowered.compile()
    parts = count(compiled.as_text())
    del compiled
    jax.clear_caches()
    lowered = step.lower(*arguments)
    with _Clock() as cached:
      lowered.compile()
  operations = sum(" = " in line for line in lowered.as_text().splitlines())
  arrays = len(jax.tree.leaves(arguments[0].params))
  return Measured(arrays, operations, trace.spent, cold.spent, cached.spent, parts)


def _stages(configs: str) -> Iterator[tuple[str, str, ConfigDict]]:
  for path in configs.split(","):
    config = command_line.load_config(path)
    for stage in config.stages:
      yield config.name, stage, config


def _deeper() -> Iterator[tuple[str, str, ConfigDict]]:
  """The denoiser of LVDM's demo: more levels, and more blocks in each."""
  for levels, blocks in ((1, 1), (2, 1), (3, 1), (2, 2), (2, 3)):
    config = command_line.load_config("configs/lvdm_sky.py:demo").unlock()
    config.model.denoiser.update(
      channel_mult=(1, 2, 3)[:levels], res_blocks=blocks, attention_downsample=(1,)
    )
    yield f"{levels} level(s)", f"{blocks} block(s)", config


def _row(first: str, second: str, found: Measured, base: Measured) -> str:
  total = lambda x: x.trace.cpu + x.cold.cpu
  ratio = total(found) / total(base)
  cells = [first, second, found.arrays, found.operations, found.trace, found.cold,
           found.cached, f"{ratio:.2f}", *found.parts.values()]  # fmt: skip
  return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--configs", default="configs/lvdm_sky.py:demo")
  parser.add_argument("--depth", action="store_true", help="one UNet, deeper and wider")
  flags = parser.parse_args()
  print(harness.machine(), "\n", flush=True)
  print("seconds as clock / processor; ratio of trace + cold, by processor, to the"
        " first row\n")  # fmt: skip
  head = ("of", "step", "arrays", "operations", "trace", "cold", "cached", "ratio",
          *PARTS)  # fmt: skip
  print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
  base = None
  # One folder for all: JAX opens its cache once in a process.
  with tempfile.TemporaryDirectory() as folder:
    jax.config.update("jax_compilation_cache_dir", folder)
    compile_cache.enable()
    for first, second, config in _deeper() if flags.depth else _stages(flags.configs):
      found = measure(config, "diffusion" if flags.depth else second)
      base = base or found
      print(_row(first, second, found, base), flush=True)


if __name__ == "__main__":
  main()
