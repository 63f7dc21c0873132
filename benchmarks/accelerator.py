# SPDX-License-Identifier: Apache-2.0
"""The real programs on an accelerator: its use, seconds a clip, frames a second.

    python -m benchmarks.accelerator --out=figures.jsonl --minutes=8
    python -m benchmarks.accelerator --out=figures.jsonl --cases=matmul,train:A.py:diffusion:8

A case is one of

  matmul                            8192 x 8192 matrices in bfloat16, the rate within reach
  train:CONFIG:STAGE:CLIPS          a training step
  sample:CONFIG:STEPS:CLIPS         noise to uint8 clips by DPM-Solver++ (2M), guidance
  decode:CONFIG:CLIPS               and of that the decoder       as the config says
  long:CONFIG:HOW:STEPS             units of a long video, as they are streamed
  train+cudnn:..., sample+cudnn:... the same with train.cudnn_attention

in a process of its own, a line of --out once it is done; a second start goes on, and
--minutes begins no case after that time. Too many clips for the memory are halved until
they fit. Weights and clips are random: neither data nor checkpoints are needed.

Utilisation is that of model FLOPs: convolutions and products of the step without
rematerialisation, over the dense bfloat16 peak in the vendor's data sheet; beside it
stands the share of what `matmul` reached in the same file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import contextlib
import json
import pathlib
import re
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from lamd_jax import command_line
from lamd_jax import config as config_lib
from lamd_jax import knobs
from lamd_jax import local_devices
from lamd_jax import long_video
from lamd_jax import types
from lamd_jax.modes import compile as compile_mode
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.training import compile_cache
from lamd_jax.training import flops
from lamd_jax.training import sharding
from lamd_jax.training import throughput

CASES = (
  "matmul",
  "train:configs/lvdm_sky.py:diffusion:64",
  "sample:configs/lvdm_sky.py:20:8",
  "decode:configs/lvdm_sky.py:8",
  "train:configs/lvdm_webvid.py:diffusion:16",
  "train+cudnn:configs/lvdm_webvid.py:diffusion:16",
  "train:configs/lvdm_sky.py:autoencoder:4",
  "train:configs/lamd_mug.py:motion_diffusion:64",
  "train:configs/lamd_mug.py:motion_autoencoder:16",
  "train:configs/gen1_davis.py:structure:16",
  "long:configs/lvdm_sky_long.py:hierarchical:10",
  "sample:configs/lvdm_sky.py:10:8",
  "sample:configs/lvdm_sky.py:50:8",
  "sample:configs/lvdm_webvid.py:20:8",
  "sample:configs/lamd_mug.py:20:8",
  "sample:configs/gen1_davis.py:20:4",
  "train+cudnn:configs/gen1_davis.py:structure:16",
  "sample+cudnn:configs/lvdm_webvid.py:20:8",
  "train:configs/lvdm_sky_long.py:prediction:32",
  "train:configs/lamd_cater_gen_v1.py:motion_diffusion:64",
  "train:configs/lamd_cater_gen_v1.py:motion_autoencoder:16",
  "train:configs/lamd_bair.py:motion_diffusion:64",
  "train:configs/lamd_bair.py:motion_autoencoder:16",
  "train:configs/lamd_landscape.py:motion_diffusion:64",
  "train:configs/lamd_landscape.py:motion_autoencoder:8",
  "train:configs/gen1_davis.py:image:64",
  "train:configs/gen1_davis.py:prior:512",
  "train:configs/lvdm_sky_long.py:interpolation:32",
)  # UCF-101 and Taichi have the networks of sky, CATER-GEN v2 those of v1
_SIDE = 8192  # of the matrices
_CALLS = {"matmul": 20, "train": 5, "sample": 1, "decode": 3, "long": 1}  # in a figure
_REPEATS = 3
_FEW_UNITS = 2  # of a long video, after its first

# What to call, and how many clips and model FLOPs it is.
Program = tuple[Callable[[], Any], dict[str, Any]]


def _filled(tree: Any) -> Any:
  """Arrays for abstract ones; zeros would take less power, and so less time.

  Weights are random, the optimizer is as at its first step, other numbers are positive.
  """
  generator = np.random.default_rng(0)

  def one(path: Any, x: Any) -> Any:
    where = jax.tree_util.keystr(path)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.random.key(0)
    if x.dtype == jnp.uint8:
      return jnp.asarray(generator.integers(0, 256, x.shape, np.uint8))
    if "opt_state" in where or not jnp.issubdtype(x.dtype, jnp.floating):
      return jnp.zeros(x.shape, x.dtype)
    low = -0.02 if "params" in where or "ema" in where else 0
    return jnp.asarray(generator.random(x.shape, np.float32) * 0.04 + low, x.dtype)

  return jax.tree_util.tree_map_with_path(one, tree)


def _opened(path: str, stage: str = "", clips: int = 1, **train: Any) -> tuple[Any, Any]:
  """The config, for one device and with `train` changed, and its system in bfloat16."""
  config = command_line.load_config(path).unlock()
  config.train.update(mesh="dp", **train)
  if stage:
    config.optim[stage].update(batch=clips, accumulate=1)
  return config, SYSTEMS[config.system](config, jnp.bfloat16)


def _matmul() -> Program:
  a, b = (
    jax.random.normal(jax.random.key(i), (_SIDE, _SIDE), jnp.bfloat16) for i in range(2)
  )
  product = jax.jit(lambda a, b: a @ b)
  return lambda: product(a, b), {"flops": 2.0 * _SIDE**3}


def _train(path: str, stage: str, clips: int, cudnn: bool = False) -> Program:
  mesh = sharding.make_mesh("dp", jax.devices()[:1])

  def program(**changes: Any) -> tuple[Any, Any]:
    config, system = _opened(path, stage, clips, cudnn_attention=cudnn, **changes)
    stages = system.stages()
    (wanted,) = (s for s in stages if s.name == stage)
    return compile_mode.train_program(wanted, config, stages, mesh)

  with jax.set_mesh(mesh):
    step, arguments = program(remat="none")
    work = flops.of_jaxpr(step.trace(*arguments).jaxpr.jaxpr)
    step, arguments = program()
    state, *rest = _filled(arguments)
    kept = {"state": state}

  def call() -> Any:
    with jax.set_mesh(mesh):
      kept["state"], report = step(kept["state"], *rest)
    return report.metrics["skipped_steps"]

  return call, {"flops": float(work), "clips": clips}


def _sample(path: str, steps: int, clips: int, cudnn: bool = False) -> Program:
  config, system = _opened(path, cudnn_attention=cudnn)
  mesh = sharding.make_mesh("dp", jax.devices()[:1])
  sample = config_lib.sample_defaults()
  sample.update(sampler="dpmpp_2m", steps=steps, batch=clips)
  settings = compile_mode.sample_settings(config, sample)
  with jax.set_mesh(mesh):
    run, arguments = compile_mode.sample_program(system, config, settings, mesh)
    work = flops.of_jaxpr(run.trace(*arguments).jaxpr.jaxpr)
    arguments = _filled(arguments)

  def call() -> Any:
    with jax.set_mesh(mesh):
      return run(*arguments)

  return call, {"flops": float(work), "clips": clips}


def _decode(path: str, clips: int) -> Program:

  _, system = _opened(path)
  weights = _filled(_weights(system, ("autoencoder",)))
  z = _filled(jax.ShapeDtypeStruct((clips, *system.latent_shape), jnp.float32))
  run = jax.jit(lambda weights, z: system.decode(weights, z, types.Prompt()))
  work = flops.of_jaxpr(run.trace(weights, z).jaxpr.jaxpr)
  return lambda: run(weights, z), {"flops": float(work), "clips": clips}


def _weights(system: Any, names: Any) -> dict[str, Any]:
  found = {}
  for stage in system.stages():
    if stage.name in names:
      params, extras = stage.init(None)
      found[stage.name] = {"params": params, "extras": extras}
  return found


def _long(path: str, how: str, steps: int) -> Program:

  config, system = _opened(path)
  sample = config_lib.sample_defaults()
  sample.update(sampler="dpmpp_2m", steps=steps, long=how)
  weights = _filled(_weights(system, config.stages))
  one = local_devices.LocalDevices(lambda: weights, "one")
  video = long_video.LongVideos(
    long_video.Programs(system, knobs.long(sample)), one, frames=10**6, of=[(0, 0)],
    overlap=sample.overlap, around=lambda k: contextlib.nullcontext(),
  )  # fmt: skip
  carry = video.unit(0, {})[1]
  facts: dict[str, Any] = {}

  def call() -> Any:
    frames, left = 0, carry
    for k in range(1, 1 + _FEW_UNITS):
      made, left = video.unit(k, left)
      frames += made.shape[1]
    facts["frames"] = frames
    return made

  return call, facts


def program(case: str) -> Program:
  """What a case calls."""
  kind, _, rest = case.partition(":")
  if kind == "matmul":
    return _matmul()
  if kind == "decode":
    path, clips = rest.rsplit(":", 1)
    return _decode(path, int(clips))
  path, what, number = rest.rsplit(":", 2)
  kind, _, way = kind.partition("+")
  if way not in ("", "cudnn") or (way and kind == "long"):
    raise SystemExit(f"no case {case}; see --help")
  if kind == "train":
    return _train(path, what, int(number), bool(way))
  if kind == "sample":
    return _sample(path, int(what), int(number), bool(way))
  if kind == "long":
    return _long(path, what, int(number))
  raise SystemExit(f"no case {case}; see --help")


def work(case: str) -> None:
  """The worker: one case, timed by whoever started it (harness.serve)."""
  compile_cache.enable()
  call, facts = program(case)
  calls = _CALLS[re.match(r"\w+", case)[0]]
  device = jax.local_devices()[0]

  def several() -> Any:
    for _ in range(calls):
      last = call()
    return jax.block_until_ready(last)

  def warm_up() -> None:
    last = several()
    stats = device.memory_stats() or {}
    facts.update(calls=calls, memory=stats.get("peak_bytes_in_use", 0),
                 device=device.device_kind, jax=jax.__version__)  # fmt: skip
    if case.startswith("train"):
      facts["skipped"] = int(last)

  harness.serve(several, facts, warm_up)


def _halved(case: str) -> str:
  """The case with half the clips; "" where there is nothing to halve."""
  rest, _, clips = case.rpartition(":")
  halves = case.startswith(("train", "sample", "decode")) and int(clips) > 1
  return f"{rest}:{int(clips) // 2}" if halves else ""


def measure(case: str) -> dict[str, Any]:
  """Runs a case, with fewer clips if so many do not fit; returns its line."""
  tried = case
  while True:
    command = ["-m", "benchmarks.accelerator", f"--worker={tried}"]
    try:
      timing = harness.compete({"ours": command}, _REPEATS)["ours"]
    except SystemExit as error:
      print(f"{tried}: {error}", flush=True)
      if tried := _halved(tried):
        continue
      return {"case": case, "failed": str(error)}
    if timing.facts.get("skipped"):
      return {"case": case, "failed": "its numbers are not finite"}
    seconds = [sample.wall / timing.facts["calls"] for sample in timing.samples]
    return {"case": case, "ran": tried, "first": timing.warm_up, "seconds": seconds,
            **timing.facts, **harness.machine()}  # fmt: skip


def row(line: dict[str, Any], reached: float, peak: float) -> list[str]:
  """A line as cells; `reached` and `peak` in FLOP/s, 0 if not known."""
  if "failed" in line:
    return [line["case"], *["-"] * 6, line["failed"]]
  seconds = statistics.median(line["seconds"])
  rate = line.get("flops", 0) / seconds
  share = lambda of: f"{rate / of:.1%}" if rate and of else "-"
  made = f"{line['clips'] / seconds:.2f} clips/s" if "clips" in line else "-"
  if "frames" in line:
    made = f"{line['frames'] / seconds:.1f} frames/s"
  return [
    line["ran"], f"{min(line['seconds']):.4f} / {seconds:.4f}", made,
    f"{rate / 1e12:.1f}" if rate else "-", share(peak), share(reached),
    f"{line['memory'] / 2**30:.1f}" if line["memory"] else "-", f"{line['first']:.0f}",
  ]  # fmt: skip


def table(lines: list[dict[str, Any]]) -> str:
  """The figures in Markdown."""
  head = ("case", "seconds: least / median", "made", "TFLOP/s", "of peak", "of matmul",
          "GiB", "first calls, s")  # fmt: skip
  peak = max((throughput.peak(line.get("device", "")) for line in lines), default=0.0)
  products = [x for x in lines if x.get("ran") == "matmul"]
  reached = [x["flops"] / statistics.median(x["seconds"]) for x in products]
  return harness.table(head, [row(x, max(reached, default=0.0), peak) for x in lines])


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--out", type=pathlib.Path, metavar="FILE.jsonl")
  parser.add_argument("--cases", default=",".join(CASES))
  parser.add_argument("--minutes", type=float, default=1e9)
  parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.worker:
    work(flags.worker)
    return
  if not flags.out:
    parser.error("--out=FILE.jsonl is missing")
  start = time.monotonic()
  text = flags.out.read_text("utf-8") if flags.out.exists() else ""
  # A line that was cut off counts as not done.
  lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
  done = {line["case"] for line in lines}
  for case in flags.cases.split(","):
    if case in done or time.monotonic() - start > 60 * flags.minutes:
      continue
    lines.append(measure(case))
    with flags.out.open("a", encoding="utf-8") as file:
      file.write(json.dumps(lines[-1]) + "\n")
    print(json.dumps(lines[-1]), flush=True)
  print("\n" + table(lines))


if __name__ == "__main__":
  main()
