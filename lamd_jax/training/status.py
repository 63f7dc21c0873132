# SPDX-License-Identifier: Apache-2.0
"""WORKDIR/STATUS: one line of JSON that says how a run stands, for schedulers.

  {"state": "training", "stage": "diffusion", "number": 2, "stages": 2, "step": 120,
   "steps": 300, "steps_per_second": 2.1, "input_wait": 0.02, "eta_seconds": 85,
   "error": "", "updated": "2026-01-01T12:00:00+00:00"}

`state` is starting, training, scoring, finished, preempted (the same command goes on),
interrupted (by Ctrl-C; likewise) or failed (`error` says why). `eta_seconds` is of the
stage, `input_wait` the share of the time that the devices waited for batches of late;
null until they are known. A state that is not final and was not updated for minutes is
that of a process that died.
"""

from __future__ import annotations

from collections.abc import Callable
import datetime
import json
import time

from absl import logging
from etils import epath
import jax

NAME = "STATUS"
_EVERY = 5.0  # seconds between two writes while training
_EVERY_REMOTE = 60.0  # on a bucket, where each is a request


class Status:
  """The file; on all processes but the first it writes nothing."""

  def __init__(
    self,
    workdir: epath.PathLike,
    stages: int,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Args: the run's folder, how many stages it has, and a clock in seconds."""
    self._path = epath.Path(workdir) / NAME
    self._clock = clock
    self._written = -float("inf")
    self._every = _EVERY_REMOTE if "://" in str(workdir) else _EVERY
    self._origin: tuple[int, float] | None = None
    self._facts = {
      "state": "starting", "stage": "", "number": 0, "stages": stages, "step": 0,
      "steps": 0, "steps_per_second": None, "input_wait": None, "eta_seconds": None,
      "error": "",
    }  # fmt: skip

  def stage(self, name: str, number: int, steps: int) -> None:
    """Stage `number`, from 1, begins and ends after `steps`."""
    self._origin = None
    self._facts.update(
      state="training", stage=name, number=number, step=0, steps=steps,
      steps_per_second=None, input_wait=None, eta_seconds=None,
    )  # fmt: skip
    self._write()

  def step(self, step: int) -> None:
    """A step was started; called at each one."""
    now = self._clock()
    if self._origin is None or step <= self._origin[0]:
      self._origin = (step, now)  # the first step compiles: time counts from its end
    self._facts["step"] = step
    if now - self._written >= self._every or step == self._facts["steps"]:
      done, seconds = step - self._origin[0], now - self._origin[1]
      if done and seconds > 0:
        left = self._facts["steps"] - step
        self._facts["steps_per_second"] = round(done / seconds, 4)
        self._facts["eta_seconds"] = round(left * seconds / done)
      self._write()

  def input_wait(self, share: float) -> None:
    """The devices waited for batches for this share of the time; written by `step`."""
    self._facts["input_wait"] = round(share, 4)

  def state(self, state: str, error: str = "") -> None:
    """The run is in another state."""
    self._facts.update(state=state, error=" ".join(error.split()))
    if state != "training":
      self._facts["eta_seconds"] = 0 if state == "finished" else None
    self._write()

  def _write(self) -> None:
    self._written = self._clock()
    if jax.process_index() != 0:
      return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    partial = self._path.with_name(f".{NAME}.part")
    try:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      partial.write_text(json.dumps({**self._facts, "updated": now}) + "\n")
      partial.replace(self._path)
    except OSError as error:  # a full disk: the next checkpoint will say so, if it lasts
      logging.warning("%s cannot be written: %s", self._path, error)
