# SPDX-License-Identifier: Apache-2.0
"""From a place in the data order to a finished clip, bad files replaced."""

from __future__ import annotations

from collections.abc import Sequence
import threading
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from lamd_jax.data import captions
from lamd_jax.data import clips
from lamd_jax.data import color_jitter
from lamd_jax.data import philox
from lamd_jax.data import transforms
from lamd_jax.errors import DataError
from lamd_jax.data.records import TruthReader, Videos
from lamd_jax.data.sources import files

_ATTEMPTS = 100  # replacements tried for one clip
_NAMED = 5  # files named in a message


def list_names(lines: Sequence[str]) -> str:
  """Joins the first few lines, and says how many more there are."""
  more = len(lines) - _NAMED
  return "; ".join(lines[:_NAMED]) + (f"; and {more} more" if more > 0 else "")


def check_usable(videos: Videos, config: ConfigDict, split: str) -> int:
  """Returns how many videos cannot be used.

  Raises DataError, with counts and reasons, if none can or if they are more than
  `max_bad_fraction`.
  """
  need = clips.span(config.frames, config.stride, config.sampling, config.pad_last)
  total = len(videos.n_frames)
  unreadable = np.flatnonzero(videos.n_frames == 0)
  short = np.flatnonzero((videos.n_frames > 0) & (videos.n_frames < need))
  bad = len(unreadable) + len(short)
  if not bad and total:
    return 0
  where = f"{videos.where}, split {split}"
  reasons = []
  if len(short):
    reasons.append(f"{len(short)} of {total} videos have fewer than {need} frames")
  if len(unreadable):
    reasons.append(f"{len(unreadable)} of {total} cannot be read")
  names = [f"{videos.name(v)}: {videos.error(v)}" for v in unreadable]
  names += [f"{videos.name(v)}: {videos.n_frames[v]} frames" for v in short]
  detail = f"{'; '.join(reasons)} ({list_names(names)})"
  if bad == total:
    raise DataError(
      f"{where}: 0 usable clips: {detail}; a clip is data.frames={config.frames} at"
      f" data.stride={config.stride}"
    )
  if bad > config.max_bad_fraction * total:
    raise DataError(
      f"{where}: {detail}: more than data.max_bad_fraction={config.max_bad_fraction:g};"
      " mend or remove them, or allow it with --config.data.max_bad_fraction="
      f"{np.ceil(bad / total * 100) / 100:g}"
    )
  files.say_once(f"{where}: skipped: {detail}")
  return bad


def drawn(seed: int, position: int) -> np.random.Generator:
  """Returns the stream of a place in the order: its start, flip, replacements."""
  return philox.generator("clip", seed, position)


class Reader:
  """Makes clips. A function of (seed, position, row) as long as the files are."""

  def __init__(
    self,
    videos: Videos,
    table: clips.ClipTable,
    config: ConfigDict,
    seed: int,
    *,
    skipped: int,
    augment: bool,
    truth: TruthReader | None = None,
  ):
    """Makes the reader.

    Args:
      videos: the opened split.
      table: its clips.
      config: the `data` group.
      seed: of starts, flips, colours and replacements.
      skipped: videos already found unusable; they count towards max_bad_fraction.
      augment: whether `config.flip` and `config.color_jitter` apply.
      truth: reads frames with their depth; None: clips have no depth.
    """
    self._videos, self._table, self._seed = videos, table, seed
    self._truth = truth
    self._size, self._how = config.size, config.resize
    self._tokenize = captions.tokenizer(config)
    self._flip = config.flip and augment
    self._color_jitter = tuple(config.color_jitter) if augment else ()
    self._limit = config.max_bad_fraction * len(videos.n_frames)
    self._max_bad_fraction = config.max_bad_fraction
    self._skipped = skipped
    self._bad: dict[int, str] = {}
    self._lock = threading.Lock()

  def __call__(self, position: int, row: int) -> dict[str, Any]:
    """Returns the clip at `position` of the data order, fields of types.VideoBatch.

    They are {"video", "index"[, "label"][, "tokens"][, "depth"]}.
    """
    draw = drawn(self._seed, position)
    start, flip = draw.random(2)
    change = None
    if any(self._color_jitter):
      change = color_jitter.draw(self._color_jitter, self._seed, position)
    for _ in range(_ATTEMPTS):
      video = int(self._table.video[row])
      if video not in self._bad:
        try:
          frames, depth = self._read(video, row, start, change)
          break
        except Exception as error:  # PyAV raises many kinds; the count bounds them
          self._quarantine(video, error)
      # The next draw of this position's own stream, so all hosts and resumed runs
      # replace a bad clip by the same one.
      row = int(draw.random() * len(self._table.video))
    else:
      raise DataError(f"{self._videos.where}: {_ATTEMPTS} clips in turn are unreadable")
    if self._flip and flip < 0.5:
      frames = frames[:, :, ::-1]
      depth = None if depth is None else depth[:, :, ::-1]
    clip = {
      "video": np.ascontiguousarray(frames),
      "index": np.int32(position % 2**31),
    }
    if self._videos.labels is not None:
      clip["label"] = self._videos.labels[video]
    if self._tokenize is not None:
      clip["tokens"] = self._tokenize(self._videos.caption(video))
    if depth is not None:
      clip["depth"] = np.ascontiguousarray(depth)
    return clip

  def _read(
    self, video: int, row: int, draw: float, change: color_jitter.Change | None
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns frames [T,S,S,3] uint8 and, if wanted, depth [T,S,S,1] uint8.

    Frames take on the colours of `change`; depth has none.
    """
    n_frames = int(self._videos.n_frames[video])
    indices = clips.frame_indices(self._table, row, n_frames, draw)
    inverse = None
    if self._truth is None:
      frames = self._videos.read(video, indices, self._size)
    else:
      frames, inverse, _ = self._truth(video, indices, self._size)
    if frames.dtype != np.uint8 or frames.ndim != 4 or len(frames) != len(indices):
      raise DataError(f"read as {frames.dtype} {frames.shape}, expected uint8 [T,H,W,3]")
    depth = None
    if inverse is not None:
      inverse = transforms.resize(inverse, self._size, self._how)
      depth = transforms.normalise_depth(inverse)
    square = transforms.resize(frames, self._size, self._how)
    if change is not None:
      # After the resize, which leaves less to do. Bars stay black, as in use.
      inside = transforms.picture(*frames.shape[1:3], self._size, self._how)
      square = color_jitter.apply(square, change, inside)
    return square, depth

  def _quarantine(self, video: int, error: Exception) -> None:
    """Names and counts a bad file. Raises DataError when there are too many."""
    reason = f"{self._videos.name(video)}: {type(error).__name__}: {error}"
    with self._lock:
      if video in self._bad:
        return
      self._bad[video] = reason.splitlines()[0]
      count = len(self._bad) + self._skipped
      names = list(self._bad.values())
    logging.warning("%s: bad file %d, replaced: %s", self._videos.where, count, names[-1])
    if count > self._limit:
      raise DataError(
        f"{self._videos.where}: {count} of {len(self._videos.n_frames)} videos are bad,"
        f" more than data.max_bad_fraction={self._max_bad_fraction:g}:"
        f" {list_names(names)}"
      ) from error

  def __getstate__(self) -> dict[str, Any]:
    return {k: v for k, v in self.__dict__.items() if k != "_lock"}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._lock = threading.Lock()
