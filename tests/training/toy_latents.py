# SPDX-License-Identifier: Apache-2.0
"""One process of two that fill a latent cache, for test_latent_cache.

  python toy_latents.py FOLDER EVENT

EVENT at the third batch of the second process: fail, term (SIGTERM) or none; or apart:
it is told another folder.
"""

from __future__ import annotations

import os
import signal
import sys

import jax
import toy_stage

from lamd_jax import errors
from lamd_jax.training import distributed
from lamd_jax.training import latent_cache
from lamd_jax.training import preemption

COUNT, BATCH = 150, 4  # the last batch runs beyond the table


def main(folder: str, event: str) -> int:
  distributed.initialize(60)
  if event == "apart" and jax.process_index() == 1:
    folder += "-elsewhere"
  taken = 0

  def hook(step: int) -> None:
    nonlocal taken
    taken += 1
    if taken != 3 or jax.process_index() != 1:
      return
    if event == "fail":
      raise errors.DataError("the disk is gone")
    if event == "term":
      os.kill(os.getpid(), signal.SIGTERM)

  def batches(first: int):
    loader = toy_stage.ToyLoader(BATCH, hook)
    loader.set_state({"next": first})
    return iter(loader)

  stop = preemption.Stop().install()
  stage, frozen = toy_stage.ToyStage(), toy_stage.FROZEN
  try:
    made = latent_cache.build(stage, frozen, batches, COUNT, BATCH, folder, stop)
  except preemption.Preempted:
    return preemption.EXIT_CODE
  finally:
    print(f"took {taken} batches", flush=True)
  print(f"complete, {len(made)} clips", flush=True)
  return 0


if __name__ == "__main__":
  sys.exit(errors.exit_code(lambda: main(*sys.argv[1:])))
