# SPDX-License-Identifier: Apache-2.0
"""Makes a video unit by unit into a folder with a journal; what is made is kept.

A run that was broken off continues after its last finished unit: a unit is a function
of its number and of the arrays the unit before left, and those are on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import signal
import sys
import threading
import time
import types as python_types
from typing import Any, Protocol, TextIO

import numpy as np

from lamd_jax import media
from lamd_jax.journal import Journal
from lamd_jax.training import console
from lamd_jax.training import preemption


class Stream(Protocol):
  """A video of `frames` frames, made by `units` units one after the other."""

  frames: int
  units: int

  def unit(
    self, k: int, carry: dict[str, np.ndarray]
  ) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
    """Returns what unit k finishes.

    Args:
      k: the unit's number, from 0.
      carry: what unit k - 1 returned; {} for unit 0.

    Returns:
      Frames [n,H,W,3] uint8, n >= 1, that follow those of unit k - 1, and the float32
      or uint8 arrays that unit k + 1 needs. Both depend on k and `carry` alone.
    """


class Line:
  """Prints `128/1024 frames  12.4 frames/s  ETA 1:12`, one line for each unit."""

  def __init__(self, total: int, done: int, out: TextIO):
    """Args: frames in all, frames made by earlier runs, where to print."""
    self._total, self._out, self._live = total, out, out.isatty()
    # The clock starts after the first unit, which compiles.
    self._origin: tuple[int, float] | None = None
    self._width = 0
    self._printed = -float("inf")
    self._print(f"{done}/{total} frames  compiling", time.monotonic())

  def advance(self, done: int) -> None:
    """`done` frames are finished."""
    now = time.monotonic()
    text = f"{done}/{self._total} frames"
    if self._origin is None:
      self._origin = (done, now)
    else:
      rate = (done - self._origin[0]) / max(1e-9, now - self._origin[1])
      left = console.duration((self._total - done) / rate)
      text += f"  {rate:.3g} frames/s  ETA {left}"
    quiet = not self._live and now - self._printed < console.PLAIN_SECONDS
    if done >= self._total or not quiet:
      self._print(text, now)

  def close(self) -> None:
    """Ends the live line, so that other output starts on its own."""
    if self._live:
      self._out.write("\n")
      self._out.flush()

  def _print(self, text: str, now: float) -> None:
    self._printed = now
    if self._live:
      self._out.write("\r" + text.ljust(self._width))
      self._width = len(text)
    else:
      self._out.write(text + "\n")
    self._out.flush()


def make(
  source: Stream,
  journal: Journal,
  write: Callable[[int, np.ndarray], None],
  after: Callable[[], None],
  stop: preemption.Stop,
) -> None:
  """Makes the units that the journal lacks.

  Args:
    source: makes the units.
    journal: of the folder; says so if it continues.
    write: puts frames [n,H,W,3] uint8 on disk, the first of which has this number; the
      next unit's segment among what it writes.
    after: called when a unit is in the journal.
    stop: asked before every unit; what is finished is kept.

  Raises:
    preemption.Preempted: `stop` was requested.
    KeyboardInterrupt: Ctrl-C; the unit was finished before.
  """
  if journal.frames == source.frames:
    return
  if journal.units:
    print(
      f"{journal.folder}: continues after frame {journal.frames} of {source.frames}",
      flush=True,
    )
  with _interrupts(stop) as interrupted:
    try:
      _make(source, journal, write, after, stop)
    except preemption.Preempted:
      if interrupted():
        raise KeyboardInterrupt from None
      raise


def _make(
  source: Stream,
  journal: Journal,
  write: Callable[[int, np.ndarray], None],
  after: Callable[[], None],
  stop: preemption.Stop,
) -> None:
  carry: Mapping[str, np.ndarray] = journal.carry()
  line = Line(source.frames, journal.frames, sys.stderr)
  with contextlib.closing(line):
    while (done := journal.frames) < source.frames:
      if stop.requested():
        raise preemption.Preempted
      k = len(journal.units)
      if k == source.units:
        raise ValueError(f"{k} units made {done} of {source.frames} frames")
      started = time.monotonic()
      frames, carry = source.unit(k, dict(carry))
      frames = media.check_frames(frames)[: source.frames - done]
      # First the files, then the record of them; see journal.py.
      write(done, frames)
      journal.add(frames, carry, time.monotonic() - started)
      line.advance(journal.frames)
      after()


@contextlib.contextmanager
def _interrupts(stop: preemption.Stop) -> Iterator[Any]:
  """The first Ctrl-C lets the unit finish, the second does not wait for it.

  Gives a function that says whether there was one.
  """
  if threading.current_thread() is not threading.main_thread():
    yield lambda: False  # only the main thread hears signals
    return
  heard = []

  def on_interrupt(number: int, frame: python_types.FrameType | None) -> None:
    if heard:
      signal.default_int_handler(number, frame)
    heard.append(number)
    stop.request()

  before = signal.signal(signal.SIGINT, on_interrupt)
  try:
    yield lambda: bool(heard)
  finally:
    signal.signal(signal.SIGINT, before)
