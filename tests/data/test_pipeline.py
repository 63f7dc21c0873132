# SPDX-License-Identifier: Apache-2.0
"""The order is a function of seed and step: hosts, threads and resumes do not show."""

import ast
import pathlib
import threading
import time

import numpy as np
import pytest

import lamd_jax
from lamd_jax.config import ConfigError
from lamd_jax.data import pipeline, reader, video_file
from lamd_jax.errors import DataError
from lamd_jax.data.sources import array_record

_VIDEOS = 12


@pytest.fixture
def clips_config(tmp_path, data_config):
  """Twelve videos of 6 to 17 frames; the red channel names the video, green the frame."""
  records = []
  for i in range(_VIDEOS):
    video = np.zeros((6 + i, 16, 16, 3), np.uint8)
    video[..., 0] = i
    video[..., 1] = np.arange(6 + i)[:, None, None]
    video[:, :, 8:, 2] = 255  # left and right differ, so a flip shows
    records.append(array_record.Record(f"v{i}", video, i))
  array_record.write(tmp_path / "data", "train", records, fps=8, shards=2)
  data_config.update(source="array_record", flip=True)
  return data_config


def _batches(config, count, batch=4, seed=5, state=None, **hosts):
  with pipeline.loader(config, split="train", batch=batch, seed=seed, **hosts) as loader:
    if state:
      loader.set_state(state)
    return [next(loader) for _ in range(count)]


def _by_index(batches):
  return {
    int(index): (b.video[i].tobytes(), int(b.label[i]))
    for b in batches
    for i, index in enumerate(b.index)
  }


def test_batches_have_the_contract_s_types(clips_config):
  (batch,) = _batches(clips_config, 1)
  assert batch.video.shape == (4, 4, 16, 16, 3) and batch.video.dtype == np.uint8
  assert batch.index.dtype == np.int32 and batch.index.tolist() == [0, 1, 2, 3]
  assert batch.label.dtype == np.int32
  assert batch.label.tolist() == batch.video[:, 0, 0, 0, 0].tolist()


def test_an_epoch_visits_every_video_once_and_the_next_in_another_order(clips_config):
  labels = np.concatenate([b.label for b in _batches(clips_config, 6)])
  assert sorted(labels[:12]) == sorted(labels[12:]) == list(range(12))
  assert labels[:12].tolist() != labels[12:].tolist()
  assert labels.tolist() != np.concatenate(
    [b.label for b in _batches(clips_config, 6, seed=6)]
  ).tolist()


def test_windows_and_flips_vary_from_visit_to_visit(clips_config):
  batches = _batches(clips_config, 60)
  starts, flips = set(), []
  for batch in batches:
    frames = batch.video[:, :, 0, 0, 1].astype(int)
    assert (np.diff(frames, axis=1) == 1).all()
    starts |= {
      int(f[0]) for f, label in zip(frames, batch.label) if label == 11
    }
    flips += (batch.video[:, 0, 0, 0, 2] == 255).tolist()
  # 17 frames hold 14 windows of 4; 20 visits meet many of them, within bounds.
  assert len(starts) >= 7 and min(starts) >= 0 and max(starts) <= 13
  assert 0.35 < np.mean(flips) < 0.65


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_one_order(clips_config, hosts):
  whole = _by_index(_batches(clips_config, 5))
  parts = {}
  for host in range(hosts):
    batches = _batches(clips_config, 5, process_index=host, process_count=hosts)
    assert all(len(b.index) == 4 // hosts for b in batches)
    assert batches[1].index[0] == 4 + host
    parts |= _by_index(batches)
  assert parts == whole


def test_resume_continues_exactly_on_another_number_of_hosts(clips_config):
  whole = _batches(clips_config, 6)
  with pipeline.loader(clips_config, split="train", batch=4, seed=5) as loader:
    for _ in range(2):
      next(loader)
    state = loader.get_state()
  same = pipeline.fingerprint(clips_config, "train")
  assert state == {"next_index": 8, "fingerprint": same}
  resumed = _batches(clips_config, 4, state=state)
  assert _by_index(resumed) == _by_index(whole[2:])
  started = _batches(clips_config, 4, start=8)
  assert _by_index(started) == _by_index(whole[2:])
  on_two = [
    b
    for host in range(2)
    for b in _batches(clips_config, 4, state=state, process_index=host, process_count=2)
  ]
  assert _by_index(on_two) == _by_index(whole[2:])


def test_threads_do_not_show_and_end_with_the_loader(clips_config):
  alone = _by_index(_batches(clips_config, 8))
  before = threading.active_count()
  clips_config.update(num_threads=4, prefetch=3)
  assert _by_index(_batches(clips_config, 8)) == alone
  deadline = time.monotonic() + 10
  while threading.active_count() > before and time.monotonic() < deadline:
    time.sleep(0.01)  # threads leave at the end of the clip they were making
  assert threading.active_count() <= before


def test_the_place_is_that_of_batches_taken_not_of_those_read_ahead(
  clips_config, monkeypatch
):
  made = []
  real = reader.Reader.__call__

  def counted(self, position, row):
    clip = real(self, position, row)
    made.append(position)
    return clip

  monkeypatch.setattr(reader.Reader, "__call__", counted)
  clips_config.update(num_threads=3, prefetch=3)
  with pipeline.loader(clips_config, split="train", batch=4, seed=5) as loader:
    taken = [next(loader) for _ in range(2)]
    deadline = time.monotonic() + 20
    while len(made) <= 8 and time.monotonic() < deadline:
      time.sleep(0.01)
    assert len(made) > 8  # the loader is ahead
    assert loader.next_index == 8
    following = next(loader)
  assert sorted(i for b in taken for i in b.index) == list(range(8))
  assert sorted(following.index) == list(range(8, 12))


def test_worker_processes_do_not_show(clips_config):
  alone = _by_index(_batches(clips_config, 4))
  clips_config.num_workers = 1
  assert _by_index(_batches(clips_config, 4)) == alone


def test_evaluation_clips_are_plain_and_fixed(clips_config):
  config = clips_config
  a = pipeline.clips(config, "train", 14, 0)
  assert a.shape == (14, 4, 16, 16, 3)
  assert a[:12, 0, 0, 0, 0].tolist() == list(range(12))  # a video each, in order
  assert (a[..., 0, 2] == 0).all()  # never flipped
  config.num_threads = 3
  assert np.array_equal(pipeline.clips(config, "train", 14, 0), a)
  assert len(pipeline.clips(config, "train", 10_000, 0)) < 60


def test_in_order_walks_the_table_again_and_again(clips_config):
  got = list(pipeline.in_order(clips_config, "train", 4, 0, 2, 0))
  assert len(got) == 6
  assert np.concatenate([b.label for b in got]).tolist() == [*range(12), *range(12)]
  rest = list(pipeline.in_order(clips_config, "train", 4, 0, 1, 8))
  assert _by_index(rest) == _by_index(got[2:3])
  first, second = (b.video[3, :, 0, 0, 1] for b in (got[2], got[5]))
  assert first.tolist() != second.tolist()  # video 11 shows another window


def test_fingerprint_follows_everything_that_fixes_a_clip(clips_config):
  clips_config.max_bad_fraction = 0.5
  seen = {pipeline.fingerprint(clips_config, "train")}
  assert pipeline.fingerprint(clips_config, "train") in seen
  for key, value in (("size", 8), ("stride", 2), ("resize", "crop"), ("flip", False)):
    clips_config[key] = value
    seen.add(pipeline.fingerprint(clips_config, "train"))
  assert len(seen) == 5


def test_a_batch_larger_than_the_data_is_a_config_error(clips_config):
  with pytest.raises(ConfigError, match="batch of 16 .* the 12 usable clips.*at most 12"):
    _batches(clips_config, 1, batch=16)
  with pytest.raises(ConfigError, match="batch of 4 does not divide over 3"):
    _batches(clips_config, 1, process_count=3)


def test_no_usable_clip_says_why(tmp_path, make, data_config):
  for i in range(4):
    make.video(tmp_path / "data" / "train" / f"{i}.gif", 5)
  make.video(tmp_path / "data" / "test" / "t.gif", 60)
  data_config.update(source="folder", stride=16)
  message = "0 usable clips: 4 of 4 videos have fewer than 49 frames"
  with pytest.raises(DataError, match=message) as error:
    pipeline.check(data_config, "train")
  assert "\n" not in str(error.value) and error.value.exit_code == 3


@pytest.fixture
def files_config(tmp_path, make, data_config):
  for i in range(6):
    make.video(tmp_path / "data" / "train" / f"{i} #.mkv", 9)
  make.video(tmp_path / "data" / "test" / "t.mkv", 9)
  data_config.update(source="folder", max_bad_fraction=0.4)
  return data_config


def test_bad_files_are_skipped_up_to_the_limit(tmp_path, make, files_config, caplog):
  (tmp_path / "data" / "train" / "bad.mp4").write_text("no video")
  make.video(tmp_path / "data" / "train" / "short.gif", 3)
  assert pipeline.check(files_config, "train") == 6
  assert "1 of 8 videos have fewer than 4 frames; 1 of 8 cannot be read" in caplog.text
  assert "train/bad.mp4: " in caplog.text and "train/short.gif: 3 frames" in caplog.text
  files_config.max_bad_fraction = 0.2
  with pytest.raises(DataError, match="max_bad_fraction=0.2;.*max_bad_fraction=0.25"):
    pipeline.check(files_config, "train")


def test_file_damaged_after_indexing_is_replaced_alike_everywhere(
  files_config, monkeypatch, caplog
):
  """Same size, other bytes: only decoding shows it."""
  pipeline.check(files_config, "train")
  real = video_file.read

  def read(path, *arguments, **more):
    if "3 #" in str(path):
      raise DataError("decodes to 2 of 9 frames")
    return real(path, *arguments, **more)

  monkeypatch.setattr(video_file, "read", read)

  def run(**kwargs):
    found = {}
    for b in _batches(files_config, 4, batch=6, **kwargs):
      found |= {int(i): v.tobytes() for i, v in zip(b.index, b.video)}
    return found

  whole = run()
  assert len(whole) == 24
  assert caplog.text.count("train/3 #.mkv: DataError: decodes to 2 of 9") == 1
  parts = run(process_count=2) | run(process_index=1, process_count=2)
  assert parts == whole
  files_config.max_bad_fraction = 0.1
  with pytest.raises(DataError, match="1 of 6 videos are bad.*train/3 #.mkv"):
    run()


def test_a_file_that_shrinks_is_noticed(tmp_path, files_config):
  with pipeline.loader(files_config, split="train", batch=6, seed=0) as loader:
    next(loader)
    for name in ("1 #.mkv", "2 #.mkv", "4 #.mkv"):
      path = tmp_path / "data" / "train" / name
      path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="videos are bad.*bytes, the index says"):
      for _ in range(3):
        next(loader)


def test_rate_falls_back_to_the_config_without_data(files_config):
  assert pipeline.fps(files_config) == 5.0  # no index yet
  pipeline.check(files_config, "train")
  files_config.stride = 2
  assert pipeline.fps(files_config) == 4.0
  files_config.root = "/no/such"
  assert pipeline.fps(files_config) == 5.0


@pytest.mark.parametrize(
  ("sampling", "rate"),
  # 8 frames a second; 8 steps of a video of 9 frames lie in 3 of a clip.
  [("linspace", 3.0), ("jittered", 3.0), ("mage10", 8 / 4.5), ("random", 4.0)],
)
def test_rate_of_clips_that_span_the_video(files_config, sampling, rate):
  files_config.update(sampling=sampling, stride=2)
  assert pipeline.fps(files_config) == 5.0  # no index yet
  pipeline.check(files_config, "train")
  assert pipeline.fps(files_config) == pytest.approx(rate)


def test_rate_of_stored_clips_that_span_the_video(clips_config):
  # Lengths 6 to 17, median 11.5; 10.5 steps lie in 3 of a clip, 8 frames a second.
  clips_config.sampling = "linspace"
  assert pipeline.fps(clips_config) == pytest.approx(8 / (10.5 / 3))
  clips_config.root = "/no/such"
  assert pipeline.fps(clips_config) == 5.0


def test_rate_of_a_world_spread_over_the_video(data_config):
  data_config.update(source="procedural", stride=2, sampling="linspace")
  assert pipeline.fps(data_config) == 4.0  # as long as a clip: the stride is the step


def test_experimental_grain_stays_in_one_file():
  package = pathlib.Path(lamd_jax.__file__).parent
  users = set()
  for path in package.rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
      if isinstance(node, ast.Import) and any(
        a.name.split(".")[0] == "grain" for a in node.names
      ):
        users.add(path.relative_to(package).as_posix())
  assert users == {"data/pipeline.py"}
