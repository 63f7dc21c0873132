# SPDX-License-Identifier: Apache-2.0
"""Long video: frames a second and peak memory against length, quality against steps.

    python -m benchmarks.long_video runs/lvdm_sky_long-demo

Each length is made by a process of its own through the same streaming code as
--mode=sample, files included. Time is linear and memory constant if the last two
columns do not grow. The samplers' clips are scored as --mode=evaluate scores them.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from benchmarks import harness

SAMPLERS = (("ddim", 50, 1.0), ("ddim", 50, 0.0), ("dpmpp_2m", 20, 0.0), ("unipc", 10, 0.0))


def make(run: str, frames: int, flags: argparse.Namespace) -> None:
  """The worker: makes one video, prints a line of JSON."""
  import lamd_jax
  from lamd_jax.modes import stream
  from lamd_jax.training import preemption

  model = lamd_jax.load(run)
  knobs = dict(long=flags.long, sampler=flags.sampler, steps=flags.steps)
  # Compiled before the clock starts, by a video of one unit.
  for part in lamd_jax.api.stream(model.long_video(0, frames=1, **knobs)):
    del part
  video = model.long_video(0, frames=frames, **knobs)
  before, start = time.process_time(), time.perf_counter()
  with tempfile.TemporaryDirectory() as folder:
    stream.run(video, folder, model.fps, {}, ("mp4",), preemption.Stop())
  seconds, cpu = time.perf_counter() - start, time.process_time() - before
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak}), flush=True)


def lengths(flags: argparse.Namespace) -> None:
  print(f"{flags.long}, {flags.sampler}-{flags.steps}: compiled before, files written")
  print(f"{'frames':>7}{'seconds':>10}{'frames/s':>10}{'cpu s/frame':>13}{'peak GiB':>10}")
  for frames in flags.frames:
    command = [sys.executable, "-m", "benchmarks.long_video", flags.run,
               f"--worker={frames}", f"--long={flags.long}",
               f"--sampler={flags.sampler}", f"--steps={flags.steps}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
      raise SystemExit(done.stderr[-2000:])
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{frames:>7}{found['seconds']:>10.1f}{frames / found['seconds']:>10.1f}"
          f"{found['cpu'] / frames:>13.4f}{found['peak']:>10.2f}", flush=True)  # fmt: skip


def quality(flags: argparse.Namespace) -> None:
  import numpy as np

  import lamd_jax
  from lamd_jax.data import pipeline
  from lamd_jax.evaluation import clip_report

  model = lamd_jax.load(flags.run)
  data, seed = model.config.data, model.config.seed
  real = pipeline.clips(data, data.eval_split, flags.clips, seed)
  print(f"\nshort clips, {flags.clips} of each: distance to real clips, 95 % interval")
  for sampler, steps, eta in SAMPLERS:
    make_clips = lambda: model.generate(
      flags.clips, sampler=sampler, steps=steps, eta=eta, batch=16
    )
    made = np.stack([clip.frames for clip in make_clips()])
    start = time.process_time()
    make_clips()
    cpu = time.process_time() - start
    score = clip_report.generation(real, {"made": made}, 300, seed)["made"]
    low, high = score["interval"]["total"]
    print(f"{sampler:>9}-{steps:<3} eta {eta:g}  {score['total']:6.2f} [{low:.2f},"
          f" {high:.2f}]  {cpu / flags.clips:6.2f} cpu s a clip", flush=True)  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("run", type=lambda path: str(pathlib.Path(path).resolve()))
  parser.add_argument("--frames", type=int, nargs="+", default=[64, 256, 1024])
  parser.add_argument("--long", default="hierarchical")
  parser.add_argument("--sampler", default="dpmpp_2m")
  parser.add_argument("--steps", type=int, default=20)
  parser.add_argument("--clips", type=int, default=64)
  parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.worker:
    make(flags.run, flags.worker, flags)
    return
  print(harness.machine(), flush=True)
  lengths(flags)
  quality(flags)


if __name__ == "__main__":
  main()
