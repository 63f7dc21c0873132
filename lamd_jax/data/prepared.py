# SPDX-License-Identifier: Apache-2.0
"""Clips cut ahead of training, shard by shard, into what `data.source=array_record` reads.

Which clips there are, in which order and in which shard, follows from the index of the
videos and the settings alone: never from who does the work, or when. Row i of the clip
table is record i, shards hold rows that follow each other. `plan` says what is to be
done, `write_shard` does one shard and may run anywhere, any number of times.
`prepared_folder` keeps the folder's books:

  OUT/preparation.json                       the settings; written first
  OUT/<split>-00000-of-00004.array_record    a shard
  OUT/shards/<shard>.json                    its SHA-256; written after the shard
  OUT/corrupt.jsonl                          videos left out, and clips left empty
  OUT/<split>.jsonl, metadata.json           as in sources/array_record.py
  OUT/manifest.json                          every shard's SHA-256; written last

A clip that cannot be read though the index knew its video keeps its place: an empty
record, 0 frames long, which no training takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import functools
import hashlib
import itertools
import json
import os
import pathlib
from typing import Any, NamedTuple
import uuid

from array_record.python import array_record_module
from ml_collections import ConfigDict
import numpy as np

from lamd_jax.data import clips
from lamd_jax.data import transforms
from lamd_jax.data.records import Videos
from lamd_jax.data.sources import array_record
from lamd_jax.data.sources import registry
from lamd_jax.errors import ConfigError, DataError

REPORTS = "shards"
# The samplings whose clips lie still; under the others each visit draws anew.
FIXED = ("tile", "first", "linspace")

_SHARD_BYTES = 256 * 2**20  # of pixels, before compression
_READ_BYTES = 256 * 2**20  # of source frames that are in memory at once
# What cannot change a prepared clip, and so may differ when work goes on.
_FREE = ("root", "num_threads", "num_workers", "prefetch", "max_bad_fraction", "choose",
         "split", "eval_split", "flip", "color_jitter", "depth", "depth_root", "fps",
         "tokenizer", "tokens", "vocabulary_size", "vocabulary")  # fmt: skip


class Task(NamedTuple):
  """One shard to be written. Plain values: it travels to other machines."""

  out: str
  data: str  # the data group, JSON
  split: str
  digest: str  # of the split's clips; a worker that sees others must not write
  shard: int
  shards: int


class Plan(NamedTuple):
  """What one split consists of."""

  split: str
  digest: str  # of everything that fixes the clips
  clips: int
  shards: int
  fps: float  # of the clips, 0: none stored
  lines: tuple[dict[str, Any], ...]  # row -> {"id", "frames", "label", "caption"}
  videos: int
  left_out: tuple[dict[str, str], ...]  # videos without a clip: {"split", "id", "error"}


class _Opened(NamedTuple):
  videos: Videos
  table: clips.ClipTable
  digest: str


def shard_clips(frames: int, size: int) -> int:
  """Returns how many clips [frames,size,size,3] a shard takes if nobody says."""
  return max(_SHARD_BYTES // (frames * size * size * 3), 1)


def shard_rows(count: int, shards: int, shard: int) -> range:
  """Returns the rows of a shard: even parts, the first ones longer by one."""
  part, longer = divmod(count, shards)
  first = shard * part + min(shard, longer)
  return range(first, first + part + (shard < longer))


def shard_name(split: str, shard: int, shards: int) -> str:
  return f"{split}-{shard:05d}-of-{shards:05d}.array_record"


def settings(config: ConfigDict) -> dict[str, Any]:
  """Returns the keys of a data group that fix prepared clips."""
  return {key: value for key, value in config.items() if key not in _FREE}


def _open(config: ConfigDict, split: str) -> _Opened:
  videos = registry.OPEN[config.source](config, split)
  table = clips.training_table(
    videos.n_frames, config.frames, config.stride, config.sampling, config.pad_last
  )
  text = f"{videos.digest()} {split} {json.dumps(settings(config), sort_keys=True)}"
  digest = hashlib.sha256(text.encode())
  digest.update(table.video.tobytes() + table.start.tobytes())
  return _Opened(videos, table, digest.hexdigest())


def plan(config: ConfigDict, split: str, clips_a_shard: int) -> Plan:
  """Returns what a split is cut into.

  Args:
    config: the `data` group; its sampling is one of FIXED.
    split: as `data.split`.
    clips_a_shard: at most.

  Raises:
    ConfigError: a sampling that draws anew at each visit.
    DataError: as the source does. Too many bad videos are `check_fraction`'s.
  """
  if config.sampling not in FIXED:
    raise ConfigError(
      f"--sampling={config.sampling}: draws clips anew at each visit, so none can be cut"
      f" ahead; choose one of {', '.join(FIXED)} (and longer --frames, in which training"
      " with data.sampling=random draws)"
    )
  opened = _open(config, split)
  videos, table = opened.videos, opened.table
  manner = (config.frames, config.stride, config.sampling, config.pad_last)
  need, spacing = clips.span(*manner), clips.spacing(videos.n_frames, *manner)
  left_out = []
  for video in np.flatnonzero(videos.n_frames < max(need, 1)):
    count = int(videos.n_frames[video])
    error = f"{count} frames, a clip needs {need}" if count else videos.error(video)
    left_out.append({"split": split, "id": videos.name(video), "error": error})
  lines = tuple(
    {
      "id": f"{videos.name(video)}@{start}",
      "frames": config.frames,
      "label": -1 if videos.labels is None else int(videos.labels[video]),
      "caption": videos.caption(int(video)),
    }
    for video, start in zip(table.video, table.start)
  )
  return Plan(
    split, opened.digest, len(lines), -(-len(lines) // clips_a_shard),
    videos.fps / spacing if spacing else 0.0, lines, len(videos.n_frames),
    tuple(left_out),
  )  # fmt: skip


def tasks(config: ConfigDict, plans: Sequence[Plan], out: pathlib.Path) -> list[Task]:
  """Returns the shards that are not yet complete in `out`."""
  data = json.dumps(config.to_dict(), sort_keys=True)
  every = [
    Task(str(out), data, p.split, p.digest, shard, p.shards)
    for p in plans
    for shard in range(p.shards)
  ]
  return [task for task in every if report(task) is None]


def report(task: Task) -> dict[str, Any] | None:
  """Returns what is known of a complete shard, None of any other."""
  name = shard_name(task.split, task.shard, task.shards)
  try:
    done = json.loads((pathlib.Path(task.out, REPORTS) / f"{name}.json").read_text())
    there = (pathlib.Path(task.out) / name).stat().st_size == done["bytes"]
    return done if there and done["digest"] == task.digest else None
  except (OSError, ValueError, KeyError, TypeError):
    return None


# Opening a split lists and stats all its files: once a worker, not once a shard. The
# digest is part of the key so that changed files are seen.
@functools.lru_cache(maxsize=4)
def _open_once(data: str, split: str, digest: str) -> tuple[_Opened, ConfigDict]:
  config = ConfigDict(json.loads(data))
  opened = _open(config, split)
  if opened.digest != digest:
    raise DataError(
      f"{opened.videos.where}, split {split}: is not what it was when the preparation"
      " was planned; leave the videos alone and start the same command again"
    )
  return opened, config


def write_shard(task: Task) -> dict[str, Any]:
  """Writes a shard unless it is complete; returns its report.

  A function of the task and the videos: two workers that are given the same shard write
  the same bytes, and whichever comes second replaces like by like.
  """
  if done := report(task):
    return done
  opened, config = _open_once(task.data, task.split, task.digest)
  rows = shard_rows(len(opened.table.video), task.shards, task.shard)
  out = pathlib.Path(task.out)
  (out / REPORTS).mkdir(parents=True, exist_ok=True)
  name = shard_name(task.split, task.shard, task.shards)
  partial = out / f".{name}.{uuid.uuid4().hex}.part"
  corrupt = []
  try:
    writer = array_record_module.ArrayRecordWriter(
      str(partial), array_record.WRITER_OPTIONS
    )
    try:
      for row, (clip, error) in zip(rows, cut(opened.videos, opened.table, config, rows)):
        writer.write(clip)
        if error:
          video = opened.videos.name(int(opened.table.video[row]))
          corrupt.append({"row": row, "id": video, "error": error})
    finally:
      writer.close()
    done = {
      "file": name, "sha256": sha256(partial), "bytes": partial.stat().st_size,
      "clips": len(rows), "digest": task.digest, "corrupt": corrupt,
    }  # fmt: skip
    os.replace(partial, out / name)
  finally:
    partial.unlink(missing_ok=True)
  # After the shard: what it says is complete is there.
  replace(out / REPORTS / f"{name}.json", json.dumps(done) + "\n")
  return done


def cut(
  videos: Videos, table: clips.ClipTable, config: ConfigDict, rows: Sequence[int]
) -> Iterator[tuple[bytes, str]]:
  """Yields (pixels, "") of each row, or (b"", why not).

  Rows of one video are read together as far as memory allows: one after the other they
  would decode the frames between a keyframe and the clip again and again.
  """
  together = 1
  for video, group in itertools.groupby(rows, key=lambda row: int(table.video[row])):
    waiting = list(group)
    n_frames = int(videos.n_frames[video])
    while waiting:
      taken = waiting[:together]
      wanted = [clips.frame_indices(table, row, n_frames, 0.0) for row in taken]
      every = np.unique(np.concatenate(wanted))
      try:
        frames = videos.read(video, every, config.size)
        if frames.dtype != np.uint8 or frames.ndim != 4 or len(frames) != len(every):
          raise DataError(f"read as {frames.dtype} {frames.shape}, expected [T,H,W,3]")
      except Exception as error:  # PyAV raises many kinds
        if len(taken) > 1:  # a file damaged near its end still has a beginning
          together = 1
          continue
        yield b"", f"{type(error).__name__}: {error}".splitlines()[0][:200]
        waiting = waiting[1:]
        continue
      for indices in wanted:
        clip = frames[np.searchsorted(every, indices)]
        clip = transforms.resize(clip, config.size, config.resize)
        yield np.ascontiguousarray(clip).tobytes(), ""
      waiting = waiting[len(taken) :]
      together = max(_READ_BYTES // (frames.nbytes // len(taken)), 1)


def sha256(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def replace(path: pathlib.Path, text: str) -> None:
  """Writes a file as a whole or not at all."""
  partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
  partial.write_text(text, "utf-8")
  os.replace(partial, path)
