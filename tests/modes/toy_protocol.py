# SPDX-License-Identifier: Apache-2.0
"""A stand-in model that is scored under a named protocol, for test_evaluate_protocol.

  python toy_protocol.py WORKDIR EVENT

One process of several. EVENT at the second process's second file: fail or none.
"""

import sys
import types

import jax
import numpy as np
import tiny

from lamd_jax import config as config_lib
from lamd_jax import errors
from lamd_jax.modes import evaluate_protocol
from lamd_jax.training import distributed

CLIPS, BLOCK = 10, 3
CONFIG = tiny.config(data__frames=16)


def evaluation(**changes):
  group = config_lib.eval_defaults()
  group.update({"clips": 8, "bootstrap": 10, "protocol": "random_small_16f", **changes})
  return group


class Model:
  """Makes copies of the first real clip it knows; remembers what it was asked."""

  def __init__(self, config=CONFIG):
    self.config, self.fps, self.asked = config, 8.0, []
    self.system = types.SimpleNamespace(animates_images=False)

  def generate(self, n, **knobs):
    self.asked.append((n, knobs))
    draw = np.random.default_rng(knobs["seed"])
    shape = (knobs["frames"], 16, 16, 3)
    clip = lambda: draw.integers(0, 255, shape).astype(np.uint8)
    return [types.SimpleNamespace(frames=clip()) for _ in range(n)]

  def reconstruct(self, clips):
    return np.clip(clips.astype(int) + 2, 0, 255).astype(np.uint8)


def main(workdir: str, event: str) -> int:
  distributed.initialize(60)
  evaluate_protocol._BLOCK = BLOCK
  model, calls = Model(), 0

  def generate(*arguments, **knobs):
    nonlocal calls
    calls += 1
    if event == "fail" and jax.process_index() == 1 and calls == 2:
      raise errors.DataError("the disk is gone")
    return Model().generate(*arguments, **knobs)

  model.generate = generate
  asked = evaluation(changes=f"fakes={CLIPS}")
  try:
    evaluate_protocol.report(model, CONFIG, workdir, asked)
  finally:
    print(f"made {calls} files", flush=True)
  return 0


if __name__ == "__main__":
  sys.exit(errors.exit_code(lambda: main(*sys.argv[1:])))
