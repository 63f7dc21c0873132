# SPDX-License-Identifier: Apache-2.0
"""One process of several that train the toy stage, for test_processes.

  python toy_processes.py WORKDIR STEPS EVENT AT VICTIM

EVENT at the batch of step AT on process VICTIM: kill (SIGKILL), term (SIGTERM) or none.
Four devices in all, whatever the number of processes.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys

import jax
import toy_stage

from lamd_jax import types
from lamd_jax.training import checkpoints
from lamd_jax.training import distributed
from lamd_jax.training import loop
from lamd_jax.training import preemption
from lamd_jax.training import sharding
from lamd_jax.training import writers

DEVICES = 4
BATCH = 16


class RecordingLoader(toy_stage.HostLoader):
  """Writes down which clips this process takes at which step."""

  def __init__(self, workdir, hook=None):
    super().__init__(BATCH, hook)
    self._log = pathlib.Path(workdir) / f"order-{os.getpid()}.jsonl"

  def __next__(self) -> types.VideoBatch:
    step = self._next // BATCH
    batch = super().__next__()
    with open(self._log, "a") as log:
      log.write(json.dumps([step, batch.index.tolist()]) + "\n")
    return batch


def train(workdir, steps, hook=None):
  """Trains on the first four devices of all processes; returns the result."""
  config = toy_stage.config(accumulate=1, steps=steps)
  config.train.update(log_every=1, checkpoint_every=2)
  pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
  return loop.train(
    toy_stage.ToyStage(),
    config=config,
    workdir=workdir,
    frozen=toy_stage.FROZEN,
    loader=RecordingLoader(workdir, hook),
    preview_batch=None,
    finish_batches=lambda: iter(toy_stage.ToyLoader(BATCH)),
    mesh=sharding.make_mesh("fsdp", jax.devices()[:DEVICES]),
    resume="auto",
    stop=preemption.Stop().install(),
    writer=writers.for_stage(config.train, "toy", workdir, steps=steps, fps=4.0),
    min_shard_bytes=1,
  )


def main(workdir: str, steps: str, event: str, at: str, victim: str) -> int:
  processes = int(os.environ.get("JAX_NUM_PROCESSES", "1"))
  jax.config.update("jax_num_cpu_devices", DEVICES // processes)
  distributed.initialize(60)

  def hook(step: int) -> None:
    if event == "none" or step != int(at) or jax.process_index() != int(victim):
      return
    if event == "kill":
      # What was saved two steps before must be on disk, as it is after a real step.
      while not checkpoints.steps(workdir):
        pass
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM}[event])

  result = train(workdir, int(steps), hook)
  print(f"result {result.status} {result.step}", flush=True)
  return preemption.EXIT_CODE if result.status == "preempted" else 0


if __name__ == "__main__":
  sys.exit(main(*sys.argv[1:]))
