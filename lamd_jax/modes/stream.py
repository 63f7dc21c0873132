# SPDX-License-Identifier: Apache-2.0
"""Makes a long video unit by unit into a folder that can be watched while it grows.

A run that was broken off continues after its last finished unit (units.py). Nothing
here holds more than the frames of one unit and a sheet of small pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import time
from typing import Any

import numpy as np
from PIL import Image

from lamd_jax import exact_frames
from lamd_jax import media
from lamd_jax import segments
from lamd_jax import stream_page
from lamd_jax.journal import Journal
from lamd_jax.journal import frames_sha256
from lamd_jax.modes import units
from lamd_jax.training import preemption

SHEET_SECONDS = 5.0  # between two looks at the whole so far
SHEET_PICTURES = 24
SHEET_COLUMNS = 8
PICTURE_SIDE = 256  # pixels; larger frames are shown smaller
VIDEO = "video.mp4"


class Sheet:
  """Pictures at even distances over the whole video, as many as are finished.

  They are taken from the segments: a run that continues finds the same ones.
  """

  def __init__(self, journal: Journal, total: int):
    self._journal = journal
    count = min(total, SHEET_PICTURES)
    self._places = np.linspace(0, total - 1, count).round().astype(int)
    self.pictures: list[np.ndarray] = []
    self._shown = -float("inf")

  def update_at_times(self) -> None:
    if time.monotonic() - self._shown > SHEET_SECONDS:
      self.update()
      self._shown = time.monotonic()

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
  source: units.Stream,
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
  stream_page.write(folder, journal.settings)
  sheet = Sheet(journal, source.frames)

  def write(begin: int, frames: np.ndarray) -> None:
    segments.write_segment(journal.segment(len(journal.units)), frames, fps)
    for name in exact_frames.WRITE.keys() & set(formats):
      exact_frames.WRITE[name](folder, begin, frames, source.frames)

  def after() -> None:
    _tell(journal, source.frames)
    sheet.update_at_times()

  try:
    units.make(source, journal, write, after, stop)
  finally:
    _write_record(journal)
  _join(journal, sheet, source.frames, fps, formats)
  return folder / VIDEO


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
  media.write_text(path, text)
