# SPDX-License-Identifier: Apache-2.0
"""Watches the steps from the host: the log, the queue of steps, the finite guard."""

from __future__ import annotations

import collections

from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np

from lamd_jax.training.state import Guard
from lamd_jax.training.step import Report
from lamd_jax.training.writers import Writer

# Steps that may wait on the device. One runs and one waits: the device is never idle,
# and batches do not pile up in its memory.
_QUEUED_STEPS = 2


class NonFiniteError(RuntimeError):
  """Too many steps in a row had a loss or gradient that was not finite."""


class Monitor:
  """Logs steps a little after they ran, and ends the run when the guard tripped."""

  def __init__(
    self, stage: str, first: int, steps: int, train: ConfigDict, writer: Writer
  ):
    """Args: the stage, steps done before, its last, `config.train`, where to log."""
    self._stage = stage
    self._steps = steps
    self._train = train
    self._writer = writer
    self._queued: collections.deque[Report] = collections.deque()
    self._pending: tuple[int, Report] | None = None
    self._latest: tuple[int, Report] | None = None
    # Examples of recent steps, to be named should a step turn out not finite.
    self._indices: collections.deque[tuple[int, np.ndarray]] = collections.deque(
      maxlen=train.log_every + train.max_nonfinite + _QUEUED_STEPS
    )
    self._checked = first  # up to this step the guard is known

  def after_step(self, step: int, report: Report, index: np.ndarray) -> None:
    """Takes note of a step that was started; logs the one before if it is due."""
    self._indices.append((step, np.array(index)))
    if self._pending:
      self._log(*self._pending)
      self._pending = None
    self._latest = (step, report)
    self._queued.append(report)
    if len(self._queued) > _QUEUED_STEPS:
      jax.block_until_ready(self._queued.popleft())
    if due(step, self._train.log_every) or step == self._steps:
      self._pending = self._latest
    self._writer.advance(step)

  def drain(self) -> None:
    """Logs what is due and checks the guard up to the latest step."""
    if self._pending:
      self._log(*self._pending)
      self._pending = None
    elif self._latest:
      step, report = self._latest
      self._check(step, jax.device_get(report.guard))

  def _log(self, step: int, report: Report) -> None:
    metrics, guard = jax.device_get(report)
    scalars = {name: float(x) for name, x in sorted(metrics.items())}
    self._writer.write_scalars(step, scalars)
    self._check(step, guard)

  def _check(self, step: int, guard: Guard) -> None:
    limit = self._train.max_nonfinite
    if int(guard.tripped):
      last = int(guard.tripped)
      examples = {s: i.tolist() for s, i in self._indices if last - limit < s <= last}
      self._writer.flush()
      raise NonFiniteError(
        f"stage {self._stage}: loss or gradient was not finite in {limit} steps in a"
        f" row, {last - limit + 1} to {last} (train.max_nonfinite={limit}); examples"
        f" by step: {examples}. Lower optim.{self._stage}.learning_rate or set"
        " clip_norm, or look at these examples"
      )
    last = int(guard.last)
    if last > self._checked:
      logging.warning(
        "stage %s: step %d was skipped, not finite (%d so far), examples %s",
        self._stage, last, int(guard.skipped),
        [i.tolist() for s, i in self._indices if s == last],
      )  # fmt: skip
    self._checked = step


def due(step: int, every: int) -> bool:
  """Whether something that happens `every` steps (0: never) happens after `step`."""
  return every > 0 and step % every == 0
