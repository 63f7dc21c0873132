# SPDX-License-Identifier: Apache-2.0
"""Makes a long video unit by unit into a folder that can be watched while it grows.

A run that was broken off continues after its last finished unit: a unit is a function
of its number and of the arrays the unit before left, and those are on disk. Nothing
here holds more than the frames of one unit and a sheet of small pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import os
import pathlib
import signal
import sys
import threading
import time
import types as python_types
from typing import Any, Protocol, TextIO

import numpy as np
from PIL import Image

from lamd_jax import exact_frames
from lamd_jax import media
from lamd_jax import segments
from lamd_jax import stream_page
from lamd_jax.journal import Journal
from lamd_jax.journal import frames_sha256
from lamd_jax.training import console
from lamd_jax.training import preemption

SHEET_SECONDS = 5.0  # between two looks at the whole so far
SHEET_PICTURES = 24
SHEET_COLUMNS = 8
PICTURE_SIDE = 256  # pixels; larger frames are shown smaller
VIDEO = "video.mp4"

Carry = Mapping[str, np.ndarray]


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
      arrays that unit k + 1 needs. Both depend on k and `carry` alone.
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


class Sheet:
  """Pictures at even distances over the whole video, as many as are finished.

  They are taken from the segments: a run that continues finds the same ones.
  """

  def __init__(self, journal: Journal, total: int):
    self._journal = journal
    count = min(total, SHEET_PICTURES)
    self._places = np.linspace(0, total - 1, count).round().astype(int)
    self.pictures: list[np.ndarray] = []

  def update(self) -> None:
    """Writes sheet.png."""
    ends = np.cumsum([unit.frames for unit in self._journal.units])
    for place in self._places[len(self.pictures) :]:
      if place >= ends[-1]:
        break
      k = int(np.searchsorted(ends, place, side="right"))
      begin = ends[k] - self._journal.units[k].frames
      frame = segments.read_frame(self._journal.segment(k), place - begin)
      picture = Image.fromarray(frame)
      picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
      self.pictures.append(np.asarray(picture))
    clips = np.stack(self.pictures)[:, None]
    columns = min(SHEET_COLUMNS, len(clips))
    media.write_png(self._journal.folder / "sheet.png", media.grid(clips, columns)[0])


def run(
  source: Stream,
  folder: str | os.PathLike[str],
  fps: float,
  settings: Mapping[str, Any],
  formats: Sequence[str],
  stop: preemption.Stop,
) -> pathlib.Path:
  """Makes what is not yet made of a video; returns the path of its mp4.

  Args:
    source: makes the units.
    folder: journal.json, index.html, segments and the video come to lie here.
    fps: frames a second.
    settings: all that the frames depend on, as JSON can hold it; a folder made with
      others is refused.
    formats: beside the mp4: gif, png (frames/), npz (frames.npy, [N,H,W,3] uint8).
    stop: asked after every unit; what is finished is kept.

  Raises:
    ConfigError: the folder holds a stream of other settings.
    preemption.Preempted: `stop` was requested.
    KeyboardInterrupt: Ctrl-C; the unit was finished before.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  journal = Journal(folder, {**settings, "frames": source.frames, "fps": fps})
  _check_exact(journal, formats)
  if journal.frames == source.frames and journal.finished():
    if "gif" not in formats or (folder / "video.gif").exists():
      print(f"{folder / VIDEO}: {source.frames} frames, finished before", flush=True)
      return folder / VIDEO
  elif journal.units:
    print(
      f"{folder}: continues after frame {journal.frames} of {source.frames}", flush=True
    )
  stream_page.write(folder, journal.settings)
  sheet = Sheet(journal, source.frames)
  with _interrupts(stop) as interrupted:
    try:
      _make(source, journal, sheet, fps, formats, stop)
    except preemption.Preempted:
      if interrupted():
        raise KeyboardInterrupt from None
      raise
    finally:
      _write_record(journal)
  _join(journal, sheet, source.frames, fps, formats)
  return folder / VIDEO


def _make(
  source: Stream,
  journal: Journal,
  sheet: Sheet,
  fps: float,
  formats: Sequence[str],
  stop: preemption.Stop,
) -> None:
  """Makes the units that the journal lacks."""
  if journal.frames == source.frames:
    return
  carry: Carry = journal.carry()
  line = Line(source.frames, journal.frames, sys.stderr)
  shown = -float("inf")
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
      segments.write_segment(journal.segment(k), frames, fps)
      for name in exact_frames.WRITE.keys() & set(formats):
        exact_frames.WRITE[name](journal.folder, done, frames, source.frames)
      journal.add(frames, carry, time.monotonic() - started)
      _tell(journal, source.frames)
      line.advance(journal.frames)
      if time.monotonic() - shown > SHEET_SECONDS:
        sheet.update()
        shown = time.monotonic()


def _join(
  journal: Journal, sheet: Sheet, total: int, fps: float, formats: Sequence[str]
) -> None:
  """Makes one file of the segments, and what is derived from it."""
  folder = journal.folder
  if not journal.finished():
    paths = [journal.segment(unit.index) for unit in journal.units]
    joined = segments.join(paths, folder / VIDEO, fps)
    if joined != total:
      raise ValueError(f"{folder / VIDEO}: {joined} frames were joined, not {total}")
    journal.finish(VIDEO)
  sheet.update()
  if "gif" in formats:
    segments.write_gif(folder / VIDEO, folder / "video.gif", sheet.pictures, fps)
  _tell(journal, total)
  _write_record(journal)


def _check_exact(journal: Journal, formats: Sequence[str]) -> None:
  """Drops the units whose exact frames are asked for and are not there."""
  for name in exact_frames.READ.keys() & set(formats):
    begin = 0
    for unit in journal.units:
      try:
        frames = exact_frames.READ[name](journal.folder, begin, unit.frames)
        whole = frames_sha256(frames) == unit.frames_sha256
      except (OSError, ValueError):
        whole = False
      if not whole:
        journal.drop(unit.index, f"its frames as {name} are missing or damaged")
        break
      begin += unit.frames


def _tell(journal: Journal, total: int) -> None:
  stream_page.tell(
    journal.folder,
    frames=journal.frames,
    asked=total,
    segments=len(journal.units),
    video=VIDEO if journal.video else "",
  )


def _write_record(journal: Journal) -> None:
  """Writes stream.json: what was asked, and how long each unit took."""
  seconds = [unit.seconds for unit in journal.units]
  record = {
    "settings": journal.settings,
    "frames": journal.frames,
    "finished": journal.video is not None,
    "seconds": round(sum(seconds), 3),
    "seconds_of_units": seconds,
  }
  text = json.dumps(record, indent=2) + "\n"
  path = journal.folder / "stream.json"
  media.atomically(path, lambda partial: partial.write_text(text, "utf-8"))


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
