# SPDX-License-Identifier: Apache-2.0
"""Seconds from starting the demo to the end of its first training step.

    python -m benchmarks.first_step

Starts the real command in a fresh workdir with a fresh compile cache, waits until its
`metrics.jsonl` has the first line, stops it, and does the same again with the cache
that the first run left. Everything counts: interpreter, imports, the procedural world,
initialisation, tracing, compiling, the step.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks import harness

_POLL = 0.02  # seconds
_LIMIT = 600.0  # seconds


def first_step(config: str, stage: str, cache: pathlib.Path) -> float:
  """Runs `config` until `stage` has logged a step; returns seconds."""
  with tempfile.TemporaryDirectory() as folder:
    workdir = pathlib.Path(folder)
    metrics = workdir / stage / "metrics.jsonl"
    command = [sys.executable, "-m", "lamd_jax.main", f"--config={config}"]
    command += [f"--workdir={workdir}", "--config.train.log_every=1"]
    environment = {**os.environ, "LAMD_COMPILE_CACHE": str(cache)}
    start = time.perf_counter()
    run = subprocess.Popen(
      command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
      while not (metrics.exists() and metrics.stat().st_size):
        if run.poll() is not None:
          message = run.stderr.read().decode(errors="replace")[-2000:]
          raise SystemExit(f"the run ended with code {run.returncode}:\n{message}")
        if time.perf_counter() - start > _LIMIT:
          raise SystemExit(f"no step within {_LIMIT:.0f} s")
        time.sleep(_POLL)
      return time.perf_counter() - start
    finally:
      run.kill()
      run.communicate()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--config", default="configs/lvdm_sky.py:demo")
  parser.add_argument("--stage", default="autoencoder", help="the first that runs")
  parser.add_argument("--repeats", type=int, default=3, help="of the cached start")
  flags = parser.parse_args()
  print(harness.machine(), flush=True)
  with tempfile.TemporaryDirectory() as folder:
    cache = pathlib.Path(folder)
    for state in ("cold", *("cached",) * flags.repeats):
      seconds = first_step(flags.config, flags.stage, cache)
      print(f"{state:<7}{seconds:6.1f} s", flush=True)


if __name__ == "__main__":
  main()
