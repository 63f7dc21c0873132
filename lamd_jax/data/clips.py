# SPDX-License-Identifier: Apache-2.0
"""The clip table: which frames of which video make a clip."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lamd_jax.data import philox

DRAWN = -1  # a start that is drawn at every visit


class ClipTable(NamedTuple):
  """Clips of `frames` frames; row i is video[i] from start[i] on."""

  video: np.ndarray  # [N] int32
  start: np.ndarray  # [N] int32, or DRAWN
  frames: int
  stride: int
  sampling: str


# Samplings whose clip spans the whole video, so that the stride does not count.
WHOLE = ("linspace", "jittered", "very_random", "mage10")
_MAGE_INTERVAL = 3  # smallest; the largest is twice as much


def span(frames: int, stride: int, sampling: str, pad_last: bool) -> int:
  """Returns how many frames a video needs at least."""
  if pad_last or sampling in ("very_random", "mage10"):  # they repeat frames by design
    return 1
  return frames if sampling in WHOLE else (frames - 1) * stride + 1


def spacing(
  n_frames: np.ndarray, frames: int, stride: int, sampling: str, pad_last: bool
) -> float:
  """Returns how many source frames a clip goes on at each of its own, on average.

  That of the median video where a clip spans the whole of it; 0 if none of n_frames [V]
  is long enough.
  """
  if sampling == "mage10":
    return 1.5 * _MAGE_INTERVAL  # its speed is drawn, evenly, up to twice as fast
  if sampling not in WHOLE:
    return float(stride)
  usable = n_frames[n_frames >= span(frames, stride, sampling, pad_last)]
  if not len(usable):
    return 0.0
  # At least 1: what a shorter video lacks is its last frame, repeated.
  return max((float(np.median(usable)) - 1) / max(frames - 1, 1), 1.0)


def training_table(
  n_frames: np.ndarray, frames: int, stride: int, sampling: str, pad_last: bool
) -> ClipTable:
  """Returns the clips of videos with n_frames [V]; too short videos have none.

  random: one row a video, its start drawn at each visit. first: from frame 0. tile:
  rows that share no frame. The others: one row a video, spread over all of it, see
  `frame_indices`.
  """
  usable = np.flatnonzero(n_frames >= span(frames, stride, sampling, pad_last))
  if sampling == "tile":
    counts = _tiles(n_frames[usable], frames, stride)
    video = np.repeat(usable, counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    start = (np.arange(len(video)) - first) * frames * stride
  else:
    video = usable
    start = np.full(len(video), DRAWN if sampling == "random" else 0)
  return ClipTable(
    video.astype(np.int32), start.astype(np.int32), frames, stride, sampling
  )  # fmt: skip


def _tiles(n_frames: np.ndarray, frames: int, stride: int) -> np.ndarray:
  """How many clips fit one behind the other, at least one (padded)."""
  window = (frames - 1) * stride + 1
  return np.maximum((n_frames - window) // (frames * stride) + 1, 1)


def evaluation_table(
  n_frames: np.ndarray, frames: int, stride: int, sampling: str, pad_last: bool,
  count: int, seed: int,
) -> ClipTable:  # fmt: skip
  """Returns the first `count` clips for scores and previews, or as many as there are.

  Under `random` each video gives one window, then each a second that shares no frame
  with the first, and so on until there are enough; where they lie depends on the seed.
  Other samplings give their table as it is.
  """
  table = training_table(n_frames, frames, stride, sampling, pad_last)
  if sampling != "random":
    return table._replace(video=table.video[:count], start=table.start[:count])
  window, step = (frames - 1) * stride + 1, frames * stride
  lengths = n_frames[table.video]
  tiles = _tiles(lengths, frames, stride)
  rounds = []
  for turn in range(int(tiles.max(initial=0))):
    open_rows = np.flatnonzero(tiles > turn)[: count - sum(map(len, rounds))]
    starts = []
    for row in open_rows:
      draw = philox.generator("evaluation clip", seed, int(table.video[row]))
      slack = int(lengths[row]) - (window + (int(tiles[row]) - 1) * step)
      offset = int(draw.random() * (max(slack, 0) + 1))
      tile = (int(draw.random() * tiles[row]) + turn) % int(tiles[row])
      starts.append(offset + tile * step)
    rounds.append(np.stack([table.video[open_rows], starts], 1).astype(np.int32))
    if sum(map(len, rounds)) >= count:
      break
  rows = np.concatenate(rounds) if rounds else np.zeros((0, 2), np.int32)
  return table._replace(video=rows[:, 0], start=rows[:, 1])


def frame_indices(table: ClipTable, row: int, n_frames: int, draw: float) -> np.ndarray:
  """Returns the frames [T] int64 of a row; `draw` in [0,1) decides what is drawn.

  linspace: floor(linspace(0, N-1, T)). jittered: the same, each inner frame moved by
  less than the step to its neighbour. very_random: T draws with repetition, in order,
  the first set to 0. The three are `uniform`, `random` and `very_random` of LFDM (Ni et
  al. 2023). mage10: the clip of MAGE (Hu et al. 2022), whose speed is drawn.
  """
  if table.sampling == "mage10":
    return _mage(n_frames, table.frames, draw)
  if table.sampling == "very_random":
    drawn = philox.generator("frames", draw.hex()).random(table.frames) * n_frames
    chosen = np.sort(drawn.astype(np.int64))
    chosen[0] = 0
    return chosen
  if table.sampling in WHOLE:
    if n_frames < table.frames:  # only under pad_last
      return np.minimum(np.arange(table.frames, dtype=np.int64), n_frames - 1)
    grid = np.floor(np.linspace(0, n_frames - 1, table.frames)).astype(np.int64)
    return _jitter(grid, draw) if table.sampling == "jittered" else grid
  start = int(table.start[row])
  if start == DRAWN:
    starts = max(n_frames - (table.frames - 1) * table.stride, 1)
    start = int(draw * starts)
  indices = start + np.arange(table.frames, dtype=np.int64) * table.stride
  # Beyond the end only under pad_last, which repeats the last frame.
  return np.minimum(indices, n_frames - 1)


def _jitter(grid: np.ndarray, draw: float) -> np.ndarray:
  steps = np.diff(grid)
  low, high = 1 - steps[:-1], steps[1:]  # of the inner frames: [low, high)
  u = philox.generator("frames", draw.hex()).random(len(low))
  moved = grid.copy()
  moved[1:-1] += np.floor(low + u * (high - low)).astype(np.int64)
  return np.sort(moved)


def _mage(n_frames: int, frames: int, speed: float) -> np.ndarray:
  """The first T of round(N / (3 + 3 u)) frames spread over the video, u the speed.

  A fast clip reaches the end and repeats its last frame; a slow one can end before the
  action does.
  """
  count = max(round(n_frames / (_MAGE_INTERVAL * (1 + speed))), 1)
  spread = np.floor(np.linspace(0, n_frames - 1, count)).astype(np.int64)
  return spread[np.minimum(np.arange(frames), count - 1)]
