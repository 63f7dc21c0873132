# SPDX-License-Identifier: Apache-2.0
"""The data pipeline: seed and step fix the clips, whatever the number of hosts.

Start here: `loader` is what training reads, `clips` what scores and previews read.
Grain's elastic iterator is experimental; this file alone uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
import functools
import hashlib
import json
import pathlib
import statistics
from typing import Any

from absl import flags
from absl import logging
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import types
from lamd_jax.data import clips as clip_tables
from lamd_jax.data import depth_files
from lamd_jax.data import index
from lamd_jax.data import procedural
from lamd_jax.data import reader
from lamd_jax.data.records import TruthReader, Videos
from lamd_jax.data.sources import array_record
from lamd_jax.data.sources import registry
from lamd_jax.errors import ConfigError

_GRAIN_STATE = "global_next_index"


class Loader:
  """Endless batches of this host's rows. Close it, or use it in a `with`."""

  def __init__(self, iterator: Any, clips: int, fingerprint: Callable[[], str]):
    self._iterator = iterator
    self._fingerprint = functools.cache(fingerprint)
    self.clips = clips  # rows of the clip table: an epoch

  def __iter__(self) -> Iterator[types.VideoBatch]:
    return self

  def __next__(self) -> types.VideoBatch:
    return types.VideoBatch(**next(self._iterator))

  @property
  def next_index(self) -> int:
    """The place of the next clip in the order, equal on all hosts."""
    return int(self._iterator.get_state()[_GRAIN_STATE])

  def get_state(self) -> dict[str, Any]:
    """Returns {"next_index": n, "fingerprint": of all clips}."""
    return {"next_index": self.next_index, "fingerprint": self._fingerprint()}

  def set_state(self, state: dict[str, Any]) -> None:
    self._iterator.set_state({_GRAIN_STATE: int(state["next_index"])})

  def close(self) -> None:
    """Ends threads and worker processes."""
    self._iterator.close()

  def __enter__(self) -> Loader:
    return self

  def __exit__(self, *exception: Any) -> None:
    self.close()


def _open(config: ConfigDict, split: str) -> tuple[Videos, clip_tables.ClipTable, int]:
  """Returns a split's videos, its training clips, and how many videos are unusable."""
  videos = registry.OPEN[config.source](config, split)
  skipped = reader.check_usable(videos, config, split)
  table = clip_tables.training_table(
    videos.n_frames, config.frames, config.stride, config.sampling, config.pad_last
  )
  return videos, table, skipped


def _depth(config: ConfigDict) -> str:
  # Estimated depth is made on the device, of the clips.
  return "none" if config.depth == "estimated" else config.depth


def _truth(config: ConfigDict, videos: Videos) -> TruthReader | None:
  """Returns what reads frames with their depth, or None where clips have none.

  Raises ConfigError if the source has no such depth, DataError as `open_depth` does.
  """
  kind, source = _depth(config), config.source
  if kind == "none":
    return None
  if kind == "world":
    if source != "procedural":
      raise ConfigError(
        f"data.depth=world: data.source={source} does not know it; say files, or none"
      )
    return videos.read_truth
  if source not in registry.SCAN:
    raise ConfigError(
      f"data.depth=files: data.source={source} has no files that depth could lie"
      " beside; say none"
    )
  return depth_files.open_depth(config, videos).read


def _iterate(
  config: ConfigDict,
  split: str,
  batch: int,
  seed: int,
  *,
  shuffle: bool,
  process_index: int = 0,
  process_count: int = 1,
) -> Loader:
  # Imported here: Grain imports JAX where it finds it, and the rest of `data` shall
  # stay light for tools and decoding processes.
  import grain

  videos, table, skipped = _open(config, split)
  rows = len(table.video)
  if batch > rows:
    raise ConfigError(
      f"a batch of {batch} is larger than the {rows} usable clips of {videos.where},"
      f" split {split}: set optim.*.batch to at most {rows}"
    )
  if batch % process_count:
    raise ConfigError(f"a batch of {batch} does not divide over {process_count} hosts")
  make_clip = reader.Reader(
    videos, table, config, seed, skipped=skipped, augment=True,
    truth=_truth(config, videos),
  )  # fmt: skip
  dataset = grain.MapDataset.range(rows)  # rows of the clip table
  if shuffle:
    dataset = dataset.seed(seed).shuffle()  # another order each epoch
  dataset = dataset.repeat().map_with_index(make_clip)  # (place in the order, row)
  if config.num_workers and not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # worker processes inherit parsed flags or fail
  iterator = grain.experimental.ElasticIterator(
    dataset,
    batch,
    grain.sharding.ShardOptions(process_index, process_count),
    # The buffer counts host batches; a thread makes one at a time, so there must be
    # one for each thread. Grain's default, 500, is meant for kilobytes.
    read_options=grain.ReadOptions(
      num_threads=config.num_threads,
      prefetch_buffer_size=max(config.prefetch, config.num_threads),
    ),
    multiprocessing_options=grain.MultiprocessingOptions(
      num_workers=config.num_workers, per_worker_buffer_size=config.prefetch
    )
    if config.num_workers
    else None,
  )
  return Loader(iterator, rows, lambda: _fingerprint(videos, table, config))


def loader(
  data_config: ConfigDict,
  *,
  split: str,
  batch: int,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
  start: int = 0,
) -> Loader:
  """Returns endless shuffled training batches.

  Args:
    data_config: the `data` group of the config.
    split: train | test | val | all, or what the source calls it.
    batch: clips a step over all hosts; a host gets batch / process_count rows, those
      of the places process_index, process_index + process_count, ...
    seed: of order, starts, flips and colours.
    process_index: this host.
    process_count: hosts.
    start: place in the order of the first clip: step x batch.

  Raises:
    DataError: no usable clip, too many bad files, or no data.
    ConfigError: the batch is larger than the data or does not divide over the hosts.
  """
  made = _iterate(
    data_config, split, batch, seed, shuffle=True,
    process_index=process_index, process_count=process_count,
  )  # fmt: skip
  made.set_state({"next_index": start})
  return made


def in_order(
  data_config: ConfigDict, split: str, batch: int, seed: int, windows: int, first: int
) -> Iterator[types.VideoBatch]:
  """Yields the clip table `windows` times over, in its order, from clip `first` on.

  Under random sampling each round through the table draws other windows. Flips and
  colours are drawn as in training, anew in each round. Batches are full; the last may
  run into a further round.
  """
  with _iterate(data_config, split, batch, seed, shuffle=False) as made:
    made.set_state({"next_index": first})
    while made.next_index < made.clips * windows:
      yield next(made)


def _evaluation_table(
  videos: Videos, config: ConfigDict, count: int, seed: int
) -> clip_tables.ClipTable:
  return clip_tables.evaluation_table(
    videos.n_frames, config.frames, config.stride, config.sampling, config.pad_last,
    count, seed,
  )  # fmt: skip


def clips(data_config: ConfigDict, split: str, count: int, seed: int) -> np.ndarray:
  """Returns the first `count` evaluation clips, [N,T,H,W,3] uint8, never augmented.

  Random sampling takes windows that share no frame, one from each video before a
  second from any; N is smaller than `count` where the split has no more.
  """
  return _evaluation_clips(data_config, split, count, seed, "video")


def each_clip(
  data_config: ConfigDict, split: str, count: int, seed: int
) -> Iterator[np.ndarray]:
  """Yields what `clips` returns, a clip at a time: together they may not fit."""
  return _each(data_config, split, count, seed, "video")[1]


def depths(data_config: ConfigDict, split: str, count: int, seed: int) -> np.ndarray:
  """Returns the depth of `clips` of the same arguments, [N,T,H,W,1] uint8.

  It is inverse and normalised a clip: see transforms.normalise_depth. Raises ConfigError
  under `data.depth` = none, where there is none to return.
  """
  if _depth(data_config) == "none":
    raise ConfigError("data.depth=none: clips have no depth; say world or files")
  return _evaluation_clips(data_config, split, count, seed, "depth")


def instances(data_config: ConfigDict, split: str, count: int, seed: int) -> np.ndarray:
  """Returns which object `clips` of the same arguments show, of a procedural world.

  [N,T,H,W,1] uint8, 0 is the background, k+1 object k. Raises ConfigError for other
  sources.
  """
  if data_config.source != "procedural":
    raise ConfigError(
      f"data.source={data_config.source} knows no objects; only procedural does"
    )
  videos, _, _ = _open(data_config, split)
  table = _evaluation_table(videos, data_config, count, seed)

  def read(row: int) -> np.ndarray:
    video, start = int(table.video[row]), reader.drawn(seed, row).random(2)[0]
    n_frames = int(videos.n_frames[video])
    frames = clip_tables.frame_indices(table, row, n_frames, start)
    return videos.read_truth(video, frames, data_config.size).instance

  with futures.ThreadPoolExecutor(max(data_config.num_threads, 1)) as threads:
    return np.stack(list(threads.map(read, range(len(table.video)))))


def _evaluation_clips(
  config: ConfigDict, split: str, count: int, seed: int, field: str
) -> np.ndarray:
  """Returns one field, video or depth, of the evaluation clips."""
  rows, each = _each(config, split, count, seed, field)
  clips = None
  for row, clip in enumerate(each):
    if clips is None:  # thousands of clips: no second copy to stack them
      clips = np.empty((rows, *clip.shape), clip.dtype)
    clips[row] = clip
  return clips


def _each(
  config: ConfigDict, split: str, count: int, seed: int, field: str
) -> tuple[int, Iterator[np.ndarray]]:
  """How many clips there are, and one field of each."""
  videos, _, skipped = _open(config, split)
  table = _evaluation_table(videos, config, count, seed)
  rows = len(table.video)
  if rows < count:
    logging.warning(
      "%s, split %s: %d clips, %d were asked for", videos.where, split, rows, count
    )
  truth = _truth(config, videos) if field == "depth" else None
  make_clip = reader.Reader(
    videos, table, config, seed, skipped=skipped, augment=False, truth=truth
  )
  workers = max(config.num_threads, 1)

  def each() -> Iterator[np.ndarray]:
    with futures.ThreadPoolExecutor(workers) as threads:
      # A few at a time: those that nobody has taken yet wait in memory.
      for start in range(0, rows, 4 * workers):
        some = range(start, min(start + 4 * workers, rows))
        for made in threads.map(make_clip, some, some):
          yield made[field]

  return rows, each()


def labels(
  data_config: ConfigDict, split: str, count: int, seed: int
) -> np.ndarray | None:
  """Returns the classes [N] int32 of `clips` of the same arguments, if there are any."""
  videos, _, _ = _open(data_config, split)
  if videos.labels is None:
    return None
  return videos.labels[_evaluation_table(videos, data_config, count, seed).video]


def captions(data_config: ConfigDict, split: str, count: int, seed: int) -> list[str]:
  """Returns the captions of `clips` of the same arguments."""
  videos, _, _ = _open(data_config, split)
  table = _evaluation_table(videos, data_config, count, seed)
  return [videos.caption(int(video)) for video in table.video]


def check(data_config: ConfigDict, split: str) -> int:
  """Returns how many rows the clip table has, videos or tiles; builds the index.

  Raises DataError as `loader` does, of depth too.
  """
  videos, table, _ = _open(data_config, split)
  _truth(data_config, videos)
  return len(table.video)


def fingerprint(data_config: ConfigDict, split: str) -> str:
  """Returns a hash of everything that fixes the clips, to print with a score."""
  videos, table, _ = _open(data_config, split)
  return _fingerprint(videos, table, data_config)


def _fingerprint(
  videos: Videos, table: clip_tables.ClipTable, config: ConfigDict
) -> str:
  names = ("frames", "size", "stride", "resize", "flip", "sampling", "pad_last",
           "tokenizer", "tokens", "vocabulary_size")  # fmt: skip
  settings = json.dumps({name: config[name] for name in names})
  digest = hashlib.sha256(f"{videos.digest()} {settings}".encode())
  digest.update(table.video.tobytes() + table.start.tobytes())
  # Added where there is any, so that fingerprints of clips without them stay.
  if any(config.color_jitter):
    digest.update(f"color_jitter {tuple(config.color_jitter)}".encode())
  if _depth(config) != "none":
    digest.update(f"depth {config.depth}".encode())
  if _depth(config) == "files":
    digest.update(depth_files.open_depth(config, videos).digest().encode())
  return digest.hexdigest()


def fps(data_config: ConfigDict) -> float:
  """Returns the rate at which clips are shown, frames a second.

  The source's own rate over what a clip goes on at each frame, the stride or, where it
  spans the whole video, the spacing in the median one. Where they are not known without
  reading the data (a world, an index that was built), `data.fps`.
  """
  config, source, stored = data_config, data_config.source, 0.0
  n_frames: list[int] = []
  whole = config.sampling in clip_tables.WHOLE
  if source == "procedural":
    stored = procedural.world(config.world, config.world_mode).fps
    n_frames = [clip_tables.span(config.frames, config.stride, "random", False)]
  elif source == "array_record":
    stored = array_record.stored_fps(config)
    n_frames = array_record.lengths(config) if whole and stored else []
  elif source in registry.SCAN and config.root:
    entries = index.load(pathlib.Path(config.root).expanduser()).values()
    stored = statistics.median([e.fps for e in entries if e.fps] or [0.0])
    if source not in registry.MANY:
      n_frames = [e.n_frames for e in entries if e.n_frames]
  spacing = clip_tables.spacing(
    np.array(n_frames), config.frames, config.stride, config.sampling, config.pad_last
  )
  return stored / spacing if stored and spacing else config.fps
