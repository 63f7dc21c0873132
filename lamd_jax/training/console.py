# SPDX-License-Identifier: Apache-2.0
"""The progress line of a run: live on a terminal, now and then a line elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import sys
import time
from typing import TextIO

LIVE_SECONDS = 0.2  # between two refreshes on a terminal
PLAIN_SECONDS = 10.0  # between two lines where output goes to a file


def duration(seconds: float) -> str:
  """Formats a duration: 42s, 3:05, 2:10:00."""
  total = max(0, round(seconds))
  hours, minutes, rest = total // 3600, total // 60 % 60, total % 60
  if hours:
    return f"{hours}:{minutes:02d}:{rest:02d}"
  return f"{minutes}:{rest:02d}" if minutes else f"{rest}s"


class Console:
  """Prints `[stage] step 120/1000  loss 0.213  3.4 steps/s  input 2%  ETA 4:20`.

  `input` is the share of the time that the devices waited for batches, of late.
  """

  def __init__(
    self,
    stage: str,
    steps: int,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Args: the stage's name, its last step, where to print, and a clock in seconds."""
    self._stage = stage
    self._steps = steps
    self._stream = sys.stderr if stream is None else stream
    self._live = self._stream.isatty()
    self._clock = clock
    self._losses = self._input = ""
    self._width = 0
    self.start(0)

  def start(self, step: int) -> None:
    """The run continues after `step`."""
    self._step = step
    # The clock starts after the first step, which compiles.
    self._origin: tuple[int, float] | None = None
    self._printed = -float("inf")

  def losses(self, step: int, scalars: Mapping[str, float]) -> None:
    """Takes note of the losses among the scalars of `step`."""
    found = {
      name.removeprefix("loss/"): value
      for name, value in scalars.items()
      # A group that learns from another's loss has none of its own, which is 0.
      if name.startswith("loss/") and value
    }
    if len(found) == 1:
      found = {"loss": next(iter(found.values()))}
    self._losses = "".join(f"  {name} {value:.4g}" for name, value in found.items())
    self._print(last=step >= self._steps)

  def input_wait(self, share: float) -> None:
    """Takes note of the share of the time that the devices waited for batches."""
    self._input = f"  input {share:.0%}"

  def advance(self, step: int) -> None:
    """A step was started."""
    self._step = step
    if self._origin is None:
      self._origin = (step, self._clock())
    self._print(last=False)

  def line(self) -> None:
    """Ends the live line, so that other output starts on its own."""
    if self._live and self._width:
      self._stream.write("\n")
      self._stream.flush()
      self._width = 0

  def _text(self, now: float) -> str:
    text = f"[{self._stage}] step {self._step}/{self._steps}{self._losses}"
    if self._origin is None or self._step <= self._origin[0]:
      return text + "  compiling"
    rate = (self._step - self._origin[0]) / max(1e-9, now - self._origin[1])
    left = duration((self._steps - self._step) / rate)
    return f"{text}  {rate:.3g} steps/s{self._input}  ETA {left}"

  def _print(self, last: bool) -> None:
    now = self._clock()
    pause = LIVE_SECONDS if self._live else PLAIN_SECONDS
    if not last and now - self._printed < pause:
      return
    self._printed = now
    text = self._text(now)
    if self._live:
      # Spaces wipe out what a longer line before left behind.
      self._stream.write("\r" + text.ljust(self._width))
      self._width = len(text)
      if last:
        self._stream.write("\n")
        self._width = 0
    else:
      self._stream.write(text + "\n")
    self._stream.flush()
