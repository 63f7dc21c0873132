# SPDX-License-Identifier: Apache-2.0
"""Prepared clips are those of training on the videos, each once, whoever cut them."""

from __future__ import annotations

import json
import random

from ml_collections import ConfigDict
import numpy as np
import pytest

from lamd_jax.data import pipeline
from lamd_jax.data import prepared
from lamd_jax.data import prepared_folder
from lamd_jax.data import reader
from lamd_jax.data.sources import array_record
from lamd_jax.data.sources import registry
from lamd_jax.errors import ConfigError, DataError


class NumberedVideos:
  """Videos whose pixels say which frame of which video they are of; nothing on disk."""

  where, fps = "numbers", 12.0

  def __init__(self, n_frames, broken=()):
    self.n_frames = np.array(n_frames, np.int32)
    self.labels = np.arange(len(n_frames), dtype=np.int32) % 3
    self.broken = broken  # (video, first frame that is damaged)
    self.reads = []

  def name(self, video):
    return f"v#{video}"

  def error(self, video):
    return "DataError: holds no video stream"

  def caption(self, video):
    return f"caption {video}"

  def digest(self):
    return str(self.n_frames.tolist())

  def read(self, video, frames, size):
    self.reads.append((video, len(frames)))
    for broken, first in self.broken:
      if video == broken and frames[-1] >= first:
        raise OSError(f"frame {first} is damaged")
    assert (np.diff(frames) >= 0).all() and frames[-1] < self.n_frames[video]
    clip = np.zeros((len(frames), 8, 8, 3), np.uint8)
    clip[..., 0], clip[..., 1] = video, np.asarray(frames)[:, None, None]
    return clip


@pytest.fixture
def use(monkeypatch):
  """Puts videos in the place of the source `folder`; workers of before forget theirs."""

  def put(videos):
    prepared._open_once.cache_clear()
    monkeypatch.setitem(registry.OPEN, "folder", lambda config, split: videos)
    return videos

  return put


@pytest.fixture
def config(data_config):
  data_config.update(frames=3, size=8, sampling="tile", max_bad_fraction=1.0)
  return data_config


def _prepare(config, out, clips_a_shard, order=None, splits=("train",)):
  plans = [prepared.plan(config, split, clips_a_shard) for split in splits]
  prepared_folder.begin(config, plans, out)
  todo = prepared.tasks(config, plans, out)
  for task in order(todo) if order else todo:
    prepared.write_shard(task)
  prepared_folder.finish(config, plans, out)
  return plans


def _read(out, config):
  """Every clip of a folder as (video, frames), in its order."""
  config = ConfigDict({**config.to_dict(), "source": "array_record", "root": str(out)})
  videos = array_record.open_split(config, "train")
  found = []
  for row in np.flatnonzero(videos.n_frames):
    clip = videos.read(int(row), np.arange(config.frames), config.size)
    assert (clip[..., :2] == clip[:, :1, :1, :2]).all()
    video = int(clip[0, 0, 0, 0])
    assert videos.caption(int(row)) == f"caption {video}"
    assert videos.labels[row] == video % 3
    found.append((video, tuple(clip[:, 0, 0, 1].tolist())))
  return found


def _bytes(folder):
  return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_shards_hold_each_row_once_and_the_reader_finds_it():
  draw = random.Random(0)
  for _ in range(200):
    shards = draw.randint(1, 40)
    count = shards + draw.randint(0, 300)
    rows = [prepared.shard_rows(count, shards, i) for i in range(shards)]
    assert [x for part in rows for x in part] == list(range(count))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1
    videos = array_record.RecordVideos.__new__(array_record.RecordVideos)
    videos._in_blocks, videos._names, videos._paths = True, range(count), range(shards)
    place = {row: (row - part[0], i) for i, part in enumerate(rows) for row in part}
    assert all(videos._place(row) == place[row] for row in range(count))


@pytest.mark.parametrize("seed", range(6))
def test_every_window_is_there_once_whatever_the_order_of_work(tmp_path, use, config, seed):
  draw = random.Random(seed)
  n_frames = [draw.randint(0, 30) for _ in range(draw.randint(2, 12))] + [30]
  config.update(frames=draw.randint(1, 4), stride=draw.randint(1, 3))
  videos = use(NumberedVideos(n_frames))

  def order(todo):  # shuffled, and some of it done twice
    return draw.sample(todo, len(todo)) + draw.choices(todo, k=3)

  plans = _prepare(config, tmp_path / "a", draw.randint(1, 7), order)
  span = (config.frames - 1) * config.stride + 1
  expected = [
    (video, tuple(range(start, start + span, config.stride)))
    for video, count in enumerate(n_frames)
    for start in range(0, count - span + 1, config.frames * config.stride)
  ]
  # By the definition of tile: windows behind each other from frame 0, as many as fit.
  assert _read(tmp_path / "a", config) == expected
  assert plans[0].clips == len(expected)
  # Another preparation, in order, by one worker: the same bytes.
  prepared._open_once.cache_clear()
  _prepare(config, tmp_path / "b", -(-plans[0].clips // plans[0].shards))
  assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
  # Rows that follow each other are read together: fewer reads than clips.
  assert len(videos.reads) <= 2 * len(expected)


def test_a_broken_off_preparation_goes_on_to_the_same_bytes(tmp_path, use, config):
  use(NumberedVideos([20, 9, 14]))
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  plan = _prepare(config, whole, 4)[0]
  assert plan.shards == 4
  prepared_folder.begin(config, [plan], broken)
  first = prepared.tasks(config, [plan], broken)[:2]
  for task in first:
    prepared.write_shard(task)
  # Killed in the middle of the third, and in between its shard and the report of it.
  (broken / ".train-00002-of-00004.array_record.0.part").write_bytes(b"half")
  (broken / "train-00003-of-00004.array_record").write_bytes(b"no report says so")
  kept = (broken / first[0].split).with_name("train-00000-of-00004.array_record")
  before = kept.stat().st_mtime_ns
  assert prepared_folder.check(broken) and not (broken / "metadata.json").exists()
  with pytest.raises(DataError, match="2 of 4 shards of train are missing"):
    prepared_folder.finish(config, [plan], broken)
  assert len(prepared.tasks(config, [plan], broken)) == 2
  _prepare(config, broken, 4)
  assert kept.stat().st_mtime_ns == before  # not done again
  assert _bytes(broken) == _bytes(whole)
  assert prepared_folder.check(broken) == []
  assert prepared.tasks(config, [plan], broken) == []


def test_manifest_knows_every_byte(tmp_path, use, config):
  use(NumberedVideos([20, 9]))
  _prepare(config, tmp_path, 4)
  shard = tmp_path / "train-00001-of-00003.array_record"
  data = bytearray(shard.read_bytes())
  data[len(data) // 2] ^= 1
  shard.write_bytes(data)
  assert prepared_folder.check(tmp_path) == [f"{shard.name} is not as manifest.json has it"]
  shard.unlink()
  assert prepared_folder.check(tmp_path) == [f"{shard.name} is missing"]


def test_damage_is_named_counted_and_left_out_of_training(tmp_path, use, config):
  # Video 1 is known to be unreadable, 2 too short; 3 breaks at frame 7 as it is cut.
  use(NumberedVideos([9, 0, 2, 12], broken=[(3, 7)]))
  _prepare(config, tmp_path, 2)
  lines = [json.loads(x) for x in (tmp_path / "corrupt.jsonl").read_text().splitlines()]
  assert [(x["id"], x["error"]) for x in lines] == [
    ("v#1", "DataError: holds no video stream"),
    ("v#2", "2 frames, a clip needs 3"),
    ("v#3", "OSError: frame 7 is damaged"),
    ("v#3", "OSError: frame 7 is damaged"),
  ]
  assert [x["clip"] for x in lines[2:]] == ["v#3@6", "v#3@9"]
  # What lies before the damage is kept.
  assert _read(tmp_path, config) == [
    (0, (0, 1, 2)), (0, (3, 4, 5)), (0, (6, 7, 8)), (3, (0, 1, 2)), (3, (3, 4, 5))
  ]
  config.update(source="array_record", root=str(tmp_path), sampling="random")
  assert reader.check_usable(registry.OPEN["array_record"](config, "train"), config, "train") == 2


@pytest.mark.parametrize("allowed, refused", [(0.5, True), (0.75, False)])
def test_too_many_bad_videos_stop_it_before_any_shard(tmp_path, use, config, allowed, refused):
  use(NumberedVideos([9, 0, 2, 0]))
  config.max_bad_fraction = allowed
  plans = [prepared.plan(config, "train", 4)]
  if not refused:
    assert len(prepared_folder.check_fraction(config, plans, tmp_path)) == 3
    return
  with pytest.raises(DataError, match=r"3 of 4 videos are bad.*--max_bad_fraction=0.75"):
    prepared_folder.check_fraction(config, plans, tmp_path)
  assert len((tmp_path / "corrupt.jsonl").read_text().splitlines()) == 3


def test_a_folder_holds_one_preparation(tmp_path, use, config):
  use(NumberedVideos([20, 9]))
  _prepare(config, tmp_path, 4)
  config.frames = 4
  with pytest.raises(ConfigError, match="prepared with --frames=3, not 4"):
    _prepare(config, tmp_path, 4)
  config.frames = 3
  with pytest.raises(ConfigError, match="another --shard_clips"):
    _prepare(config, tmp_path, 2)
  use(NumberedVideos([20, 9, 9]))
  with pytest.raises(ConfigError, match="videos of split train have changed"):
    _prepare(config, tmp_path, 4)
  config.sampling = "random"
  with pytest.raises(ConfigError, match="draws clips anew.*tile, first, linspace"):
    prepared.plan(config, "train", 4)


def test_rate_of_clips_that_span_their_video(tmp_path, use, config):
  use(NumberedVideos([21, 2, 9, 31]))
  config.sampling = "linspace"
  _prepare(config, tmp_path, 4)
  # The median of those with a clip has 21 frames: 20 steps in 2, 12 a second.
  assert array_record.load_metadata(tmp_path)["splits"]["train"]["fps"] == 1.2
  # Every frame of what was cut is a clip: nothing is left out a second time.
  config.update(source="array_record", root=str(tmp_path), stride=1)
  assert pipeline.fps(config) == 1.2


def test_a_worker_that_sees_other_videos_writes_nothing(tmp_path, use, config):
  use(NumberedVideos([20, 9]))
  plan = prepared.plan(config, "train", 4)
  task = prepared.tasks(config, [plan], tmp_path)[0]
  use(NumberedVideos([20, 10]))
  with pytest.raises(DataError, match="not what it was when the preparation was planned"):
    prepared.write_shard(task)
  assert not list(tmp_path.rglob("*.array_record"))


def test_training_on_shards_is_training_on_the_videos(tmp_path, make, data_config):
  """Pixel by pixel, in the same order, mirrored alike; captions too."""
  for i, n in enumerate((13, 9, 3, 22)):
    make.video(tmp_path / "data" / "train" / f"{i} #.mp4", n)
    (tmp_path / "data" / "train" / f"{i} #.txt").write_text(f"video {i}")
  make.video(tmp_path / "data" / "test" / "t.mp4", 9)
  data_config.update(
    source="folder", sampling="tile", stride=2, flip=True, tokenizer="words",
    max_bad_fraction=0.5,
  )  # fmt: skip
  out = tmp_path / "out"
  plans = _prepare(data_config, out, 2, splits=("train", "test"))
  assert [p.clips for p in plans] == [4, 1]

  def batches(config, split, batch):
    with pipeline.loader(config, split=split, batch=batch, seed=3) as loader:
      return [next(loader) for _ in range(4)]

  ready = data_config.copy_and_resolve_references()
  ready.update(source="array_record", root=str(out), stride=1)
  for split, batch in (("train", 3), ("test", 1)):
    videos, shards = batches(data_config, split, batch), batches(ready, split, batch)
    assert pipeline.fps(data_config) == pipeline.fps(ready) == 4.0
    for a, b in zip(videos, shards):
      for name in ("video", "index", "tokens"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
  assert len({v.tokens.tobytes() for v in videos}) == 1
