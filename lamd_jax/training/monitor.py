# SPDX-License-Identifier: Apache-2.0
"""Watches the steps from the host: the log, the queue of steps, the finite guard."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
import contextlib
import time

from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np

from lamd_jax.errors import NonFiniteError
from lamd_jax.training.state import Guard
from lamd_jax.training.step import Report
from lamd_jax.training.throughput import Throughput
from lamd_jax.training.writers import INPUT_WAIT, Writer

# Steps that may wait on the device. One runs and one waits: the device is never idle,
# and batches do not pile up in its memory.
_QUEUED_STEPS = 2


class Monitor:
  """Logs steps a little after they ran, and ends the run when the guard tripped."""

  def __init__(
    self,
    stage: str,
    first: int,
    steps: int,
    train: ConfigDict,
    writer: Writer,
    throughput: Throughput,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Makes the monitor.

    Args:
      stage: its name.
      first: steps done before.
      steps: its last step.
      train: `config.train`.
      writer: where to log.
      throughput: counts the steps' arithmetic as they are started.
      clock: in seconds.
    """
    self._clock = clock
    self._waited = 0.0  # seconds without work for the device, since `_since`
    self._since: float | None = None
    self._stage = stage
    self._steps = steps
    self._train = train
    self._writer = writer
    self._throughput = throughput
    self._queued: collections.deque[Report] = collections.deque()
    self._pending: tuple[int, Report] | None = None
    self._latest: tuple[int, Report] | None = None
    # Examples of recent steps, to be named should a step turn out not finite.
    self._indices: collections.deque[tuple[int, np.ndarray]] = collections.deque(
      maxlen=train.log_every + train.max_nonfinite + _QUEUED_STEPS
    )
    self._checked = first  # up to this step the guard is known

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Is put around the wait for a batch.

    The wait counts if the device had nothing left to do at its end: while a step is
    under way, waiting costs nothing. What is counted is thus at least the time that the
    device stood still, and at most that and the end of the step before.
    """
    begun = self._clock()
    yield
    if self._latest and self._latest[1].guard.last.is_ready():
      self._waited += self._clock() - begun

  def after_step(self, step: int, report: Report, index: np.ndarray) -> None:
    """Takes note of a step that was started; logs the one before if it is due."""
    self._indices.append((step, np.array(index)))
    if self._since is None:
      self._since = self._clock()  # after the first step was compiled
      self._throughput.take(0)
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
    self._writer.write_scalars(step, {**scalars, **self._rates()})
    self._check(step, guard)

  def _rates(self) -> dict[str, float]:
    """Returns what the time since the last call went by with."""
    seconds = self._clock() - self._since
    share = min(self._waited / seconds, 1.0) if seconds > 0 else 0.0
    self._waited, self._since = 0.0, self._since + seconds
    return {INPUT_WAIT: share, **self._throughput.take(seconds)}

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
