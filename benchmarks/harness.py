# SPDX-License-Identifier: Apache-2.0
"""Runs competing programs in turn and compares their times.

Each competitor lives in a process of its own, so that neither's threads, allocator or
compile cache touch the other's, and answers "run once" by its times. The competitors
of a case take turns: on a machine that others use too, both then meet the same weather,
and the ratio holds where the seconds do not. The least processor time divided by the
number of threads is shown beside the wall time: where the two differ much, the machine
was busy and the wall time is not the program's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from typing import NamedTuple


class Sample(NamedTuple):
  """One repetition."""

  wall: float  # seconds
  cpu: float  # seconds, over all threads


class Timing(NamedTuple):
  """All repetitions of one competitor on one case, after its warm-up."""

  samples: list[Sample]
  warm_up: float  # seconds of the first call, compilation included
  rss: float  # peak resident set of its process, GiB
  facts: dict[str, float]  # what the competitor says of itself, e.g. its FLOPs

  @property
  def best(self) -> float:
    return min(s.wall for s in self.samples)

  @property
  def median(self) -> float:
    return statistics.median(s.wall for s in self.samples)

  def least_cpu(self, threads: int) -> float:
    return min(s.cpu for s in self.samples) / threads


def use_threads(count: int) -> None:
  """Confines this process to `count` processors. Call before importing JAX or torch.

  XLA sizes its thread pool by the processors it may use and has no other setting.
  """
  allowed = sorted(os.sched_getaffinity(0))
  if count > len(allowed):
    raise SystemExit(f"--threads={count}, but only {len(allowed)} processors are here")
  os.sched_setaffinity(0, set(allowed[:count]))
  os.environ["OMP_NUM_THREADS"] = str(count)
  # Waiting threads sleep. Spinning ones would be counted as work, and on a busy machine
  # they hold up the very thread that they wait for.
  os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def serve(
  call: Callable[[], None],
  facts: dict[str, float],
  warm_up: Callable[[], None] | None = None,
) -> None:
  """The competitor's side: runs `call` once for every line on standard input.

  `warm_up` may stand in for the first, untimed call where that would take minutes.
  """
  start = time.perf_counter()
  (warm_up or call)()
  _say({"warm_up": time.perf_counter() - start, "facts": facts})
  for _ in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    sample = (time.perf_counter() - wall, time.process_time() - cpu)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    _say({"sample": sample, "rss": rss})


def _say(message: dict) -> None:
  print(json.dumps(message), flush=True)


def compete(commands: dict[str, Sequence[str]], repeats: int) -> dict[str, Timing]:
  """Starts one process a competitor and lets them take turns.

  Args:
    commands: name -> arguments of a Python program that ends in `serve`.
    repeats: timed calls of each, after one warm-up.
  """
  workers = {}
  try:
    first, samples, rss = {}, {name: [] for name in commands}, {}
    for name, arguments in commands.items():
      workers[name] = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
      )
      # One after the other: compiling while another one warms up would slow both.
      first[name] = _hear(name, workers[name])
    for _ in range(repeats):
      for name, worker in workers.items():
        answer = _hear(name, worker, ask=True)
        samples[name].append(Sample(*answer["sample"]))
        rss[name] = answer["rss"]
  finally:
    for worker in workers.values():
      worker.stdout.close()
      worker.kill()
      worker.wait()
  return {
    name: Timing(samples[name], first[name]["warm_up"], rss[name], first[name]["facts"])
    for name in commands
  }


def _hear(name: str, worker: subprocess.Popen, ask: bool = False) -> dict:
  try:
    if ask:
      worker.stdin.write("\n")
      worker.stdin.flush()
    line = worker.stdout.readline()
  except BrokenPipeError:
    line = ""
  if not line:
    code = worker.wait()
    # The kernel kills the largest process when memory runs out.
    raise SystemExit(f"{name} stopped with code {code}; -9 may mean: out of memory")
  return json.loads(line)


def machine() -> dict[str, str | int | float]:
  """What a reader must know of the machine, and nothing that names it."""
  return {
    "machine": f"{os.cpu_count()}-core {platform.machine().replace('_', '-')}",
    "python": platform.python_version(),
    "load_before": round(os.getloadavg()[0], 2),
  }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table."""
  lines = [head, ["---"] * len(head), *rows]
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)
