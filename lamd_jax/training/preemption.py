# SPDX-License-Identifier: Apache-2.0
"""SIGTERM means: finish the step, save, leave with exit code 75.

The handler only sets a flag. Whoever runs for long (training, previews, filling the
latent cache, a stage's `finish`) polls it: a flag that is looked at only between
training steps is missed while something else runs.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import signal
import time
import types as python_types
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

EXIT_CODE = 75  # what main exits with; launchers requeue on it
# With several processes the flag is exchanged every so many polls at most: each exchange
# waits for the device, so it should not happen at every step. Steps may be long: half a
# minute is what a machine that is taken away has for hearing of it and saving.
POLLS_PER_EXCHANGE = 8
SECONDS_PER_EXCHANGE = 10.0


class Preempted(Exception):
  """Raised out of a long host loop when the run was asked to stop."""


class Stop:
  """The flag. Make one in main, `install()` it, and pass it to whoever polls."""

  def __init__(self) -> None:
    self._requested = False
    self._interrupts = False
    self.polls = POLLS_PER_EXCHANGE  # between two exchanges; equal on all processes
    self._last = 0, time.monotonic()  # the poll of the last exchange, and when

  def install(self) -> Stop:
    """Listens to SIGTERM; only the main thread may. Returns itself."""
    signal.signal(signal.SIGTERM, self._on_signal)
    return self

  def request(self) -> None:
    """Sets the flag, as a first SIGTERM does."""
    self._requested = True

  @contextlib.contextmanager
  def interrupting(self) -> Iterator[None]:
    """Within, SIGTERM raises Preempted at once: there is nothing to be saved."""
    self._interrupts = True
    try:
      if self._requested:
        raise Preempted
      yield
    finally:
      self._interrupts = False

  def pace(self, poll: int) -> float:
    """Seconds a poll since this was last asked; 0 where polls began anew."""
    (last, began), now = self._last, time.monotonic()
    self._last = poll, now
    return (now - began) / (poll - last) if poll > last else 0.0

  def requested(self) -> bool:
    """Whether this process was asked to stop."""
    return self._requested

  def _on_signal(self, number: int, frame: python_types.FrameType | None) -> None:
    del frame
    if self._requested:
      # Asked twice: whoever asks does not want to wait for the save.
      os._exit(128 + number)
    self._requested = True
    if self._interrupts:
      raise Preempted


def agreed(stop: Stop, poll: int) -> bool:
  """Whether all processes leave now. Every process calls it with the same `poll`.

  A process that left alone would leave the others hanging in a collective, so with
  several processes the flags are gathered, every POLLS_PER_EXCHANGE polls, or more often
  where the slowest process takes longer than SECONDS_PER_EXCHANGE for so many.
  """
  if jax.process_count() == 1:
    return stop.requested()
  if poll % stop.polls:
    return False
  told = np.asarray([stop.requested(), stop.pace(poll)], np.float32)
  with jax.transfer_guard("allow"):
    requested, pace = multihost_utils.process_allgather(told).T
  stop.polls = polls_between(float(pace.max()))
  return bool(np.any(requested))


def polls_between(pace: float) -> int:
  """Polls from an exchange to the next, of `pace` seconds each."""
  return max(1, min(POLLS_PER_EXCHANGE, int(SECONDS_PER_EXCHANGE / max(pace, 1e-9))))


def until_stopped(items: Iterator[Any], stop: Stop) -> Iterator[Any]:
  """Yields from `items`; raises Preempted once the run was asked to stop."""
  for poll, item in enumerate(items):
    if agreed(stop, poll):
      raise Preempted
    yield item
