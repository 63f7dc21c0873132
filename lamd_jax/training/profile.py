# SPDX-License-Identifier: Apache-2.0
"""A trace of a few training steps, for XProf and TensorBoard's profile page."""

from __future__ import annotations

from absl import logging
from etils import epath
import jax

_SKIPPED = 10  # steps of a start that a trace leaves out: they compile and fill caches


class Profile:
  """Traces `steps` steps after the first ten of a start, into `workdir`/profile."""

  def __init__(self, workdir: epath.PathLike, first: int, steps: int):
    """Args: the stage's folder, the steps done before, and how many to trace; 0: none."""
    self._folder = epath.Path(workdir) / "profile"
    self._begin = first + _SKIPPED
    self._end = self._begin + steps
    self._running = False

  def before(self, step: int, state: object) -> None:
    """Is called before each step with what it starts from; begins or ends the trace."""
    if self._begin <= step < self._end and not self._running:
      jax.block_until_ready(state)
      jax.profiler.start_trace(str(self._folder))
      self._running = True
    elif step >= self._end:
      self.stop(state)

  def stop(self, state: object) -> None:
    """Ends the trace if one is running, once `state` is there."""
    if self._running:
      jax.block_until_ready(state)
      jax.profiler.stop_trace()
      self._running = False
      self._begin = self._end  # one trace a start
      logging.info("profile of %s written", self._folder)
