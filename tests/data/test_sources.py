# SPDX-License-Identifier: Apache-2.0
"""Each source on a tiny tree of its published layout."""

import numpy as np
import pytest

from lamd_jax.data import clips, pipeline
from lamd_jax.errors import DataError
from lamd_jax.data.sources import array_record, files, frames, registry, taichi, ucf101


def _read(config, split):
  """All clips of a split, one a video, from its first frame on."""
  config.sampling = "first"
  return pipeline.clips(config, split, 100, 0)


def test_folder_with_splits(tmp_path, make, data_config):
  root = tmp_path / "data"
  make.video(root / "train" / "a b.mp4", 9)
  make.video(root / "train" / "sub" / "x#1.avi", 9)
  make.video(root / "val" / "é.gif", 9)
  make.video(root / "val" / ".hidden.mp4", 9)
  data_config.source = "folder"
  assert len(_read(data_config, "train")) == 2
  assert len(_read(data_config, "test")) == 1  # val stands in
  assert len(_read(data_config, "all")) == 3
  with pytest.raises(DataError, match="no split 'trian'; it has train, val"):
    pipeline.check(data_config, "trian")


def test_what_lies_beside_splits_is_in_none(tmp_path, make, data_config):
  """A preview in the root must not mix what is held out with what is trained on."""
  for name in ("train/a", "train/b", "test/c", "preview"):
    make.video(tmp_path / f"{name}.mp4", 4)
  listing = registry.SCAN["folder"](tmp_path)
  splits = {item.id: item.split for item in listing.items}
  assert splits["preview.mp4"] == "unlisted"
  assert splits["test/c.mp4"] == "test" and splits["train/a.mp4"] == "train"
  assert "1 beside the folders of the splits, such as preview.mp4" in listing.notes[-1]


def test_folder_without_splits_holds_some_out_by_name(tmp_path, make, data_config):
  root = tmp_path / "data"
  for i in range(10):
    make.video(root / f"{i}.gif", 5)
  (root / "x.mp4").touch()
  data_config.update(source="folder", max_bad_fraction=0.5)
  train, test = (
    {v.name(i) for i in range(len(v.n_frames))}
    for v in (registry.OPEN["folder"](data_config, s) for s in ("train", "test"))
  )
  assert not train & test and len(train | test) == 11
  assert 1 <= len(test - {"x.mp4"}) <= 3
  # Another video leaves the split of the others as it was.
  make.video(root / "another.gif", 5)
  again = registry.OPEN["folder"](data_config, "test")
  assert {again.name(i) for i in range(len(again.n_frames))} - {"another.gif"} == test


def test_one_usable_video_serves_both_splits(tmp_path, make, data_config):
  make.video(tmp_path / "data" / "only.mp4", 9)
  make.video(tmp_path / "data" / "short.mp4", 2)
  data_config.update(source="folder", max_bad_fraction=0.5)
  assert len(_read(data_config, "train")) == len(_read(data_config, "test")) == 1


@pytest.mark.parametrize("names", [("sky_train", "sky_test"), ("train", "test")])
def test_sky_trees(tmp_path, make, data_config, names):
  root = tmp_path / "data"
  stem = "abc_frames_000"
  make.frames(root / names[0] / "abc" / "abc_1", 12, first=95, stem=stem)
  make.frames(root / names[0] / "abc" / "abc_2", 6, first=3, step=2, suffix=".jpg")
  make.frames(root / names[1] / "xyz" / "xyz_1", 7)
  make.frames(root / names[0] / "z6Yr7KDZhm0" / "z6Yr7KDZhm0_1", 7)
  (root / names[0] / "abc" / "empty").mkdir()
  listing = frames.scan(root)
  assert {item.id: item.split for item in listing.items} == {
    f"{names[0]}/abc/abc_1": "train",
    f"{names[0]}/abc/abc_2": "train",
    f"{names[1]}/xyz/xyz_1": "test",
  }
  notes = " ".join(listing.notes)
  assert "1 empty folders" in notes and "z6Yr7KDZhm0" in notes
  assert "1 folders skip frame numbers" in notes
  data_config.update(source="frames", stride=2, max_bad_fraction=0.5)
  # Frames 95..106: sorted by number, 100 comes after 99, and stride 2 is honoured.
  clips_read = _read(data_config, "train")
  assert len(clips_read) == 1  # six frames are too few at stride 2
  assert make.numbers(clips_read[0]).tolist() == [0, 2, 4, 6]


def _ucf_lists(root):
  lists = root / "ucfTrainTestlist"
  lists.mkdir(parents=True)
  (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 HandstandPushups\n")
  (lists / "trainlist01.txt").write_text(
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\n"
    "HandstandPushups/v_HandStandPushups_g09_c02.avi 2\n"
  )
  (lists / "testlist01.txt").write_text("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n")


def test_ucf101_as_published(tmp_path, make, data_config):
  root = tmp_path / "data"
  _ucf_lists(root)
  base = root / "UCF-101"
  make.video(base / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g01_c01.avi", 6)
  make.video(base / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g08_c01.avi", 6)
  make.video(base / "HandstandPushups" / "v_HandstandPushups_g09_c02.avi", 6)
  make.video(base / "HandstandPushups" / "v_HandstandPushups_g01_c02.avi", 6)
  for start in (root, base):  # either folder may be named
    rows = {
      item.id.split("/")[-1]: (item.split, item.label, item.caption)
      for item in ucf101.scan(start).items
    }
    assert rows == {
      "v_ApplyEyeMakeup_g01_c01.avi": ("test", 0, "apply eye makeup"),
      "v_ApplyEyeMakeup_g08_c01.avi": ("train", 0, "apply eye makeup"),
      "v_HandstandPushups_g09_c02.avi": ("train", 1, "handstand pushups"),
      "v_HandstandPushups_g01_c02.avi": ("unlisted", 1, "handstand pushups"),
    }
  data_config.update(source="ucf101", sampling="first")
  with pipeline.loader(data_config, split="train", batch=2, seed=0) as loader:
    batch = next(loader)
  assert sorted(batch.label.tolist()) == [0, 1] and batch.label.dtype == np.int32
  assert len(_read(data_config, "all")) == 4


def test_ucf101_in_split_folders_and_as_images(tmp_path, make, data_config):
  root = tmp_path / "a"
  make.video(root / "train" / "Biking" / "v_Biking_g01_c01.avi", 4)
  make.video(root / "test" / "Archery" / "v_Archery_g09_c01.avi", 4)
  rows = {i.path: (i.split, i.label) for i in ucf101.scan(root).items}
  assert rows == {
    "train/Biking/v_Biking_g01_c01.avi": ("train", 1),
    "test/Archery/v_Archery_g09_c01.avi": ("test", 0),
  }
  root = tmp_path / "b"
  make.frames(root / "train" / "v_Biking_g10_c01", 4)
  make.frames(root / "test" / "v_Biking_g11_c01", 4)
  (item, other) = ucf101.scan(root).items
  assert (item.kind, item.split, other.split) == ("frames", "test", "train")


def test_ucf101_without_lists_splits_by_group(tmp_path, make):
  for group in ("g07", "g08"):
    make.video(tmp_path / "Biking" / f"v_Biking_{group}_c01.avi", 2)
  listing = ucf101.scan(tmp_path)
  assert [item.split for item in listing.items] == ["test", "train"]
  assert any("groups 1 to 7" in note for note in listing.notes)


def test_taichi_files_and_frames(tmp_path, make, data_config):
  root = tmp_path / "data"
  make.video(root / "train" / "ab-C_d#000123#000456.mp4", 9)
  make.video(root / "test" / "x#000001#000200.mp4", 9)
  data_config.update(source="taichi", stride=2)
  assert make.numbers(_read(data_config, "train")[0]).tolist() == [0, 2, 4, 6]
  assert pipeline.fps(data_config) == 4.0  # 8 a second, every other frame
  other = tmp_path / "mirror"
  make.frames(other / "frames" / "train" / "x#000001#000200", 4)
  make.frames(other / "frames" / "test" / "y#000001#000200", 4)
  items = taichi.scan(other).items
  assert [(i.id, i.path, i.split) for i in items] == [
    ("test/y#000001#000200", "frames/test/y#000001#000200", "test"),
    ("train/x#000001#000200", "frames/train/x#000001#000200", "train"),
  ]


def test_array_record_round_trip(tmp_path, data_config):
  root = tmp_path / "data"
  rng = np.random.default_rng(0)
  records = [
    array_record.Record(f"v{i}", rng.integers(0, 256, (5 + i, 16, 16, 3), np.uint8), i % 3)
    for i in range(7)
  ]
  assert array_record.write(root, "train", iter(records), fps=12.5, shards=3) == 7
  array_record.write(root, "test", records[:2], fps=12.5)
  data_config.update(source="array_record", stride=1)
  videos = registry.OPEN["array_record"](data_config, "train")
  assert videos.fps == 12.5 == pipeline.fps(data_config)
  seen = set()
  for v in range(7):
    record = records[int(videos.name(v)[1:])]
    seen.add(record.id)
    assert np.array_equal(
      videos.read(v, np.arange(1, 5), 16), record.video[1:5]
    ) and videos.labels[v] == record.label
  assert len(seen) == 7
  # Same size: stored bytes reach the batch untouched.
  first = _read(data_config, "test")
  assert np.array_equal(first[0], records[0].video[:4])
  with pytest.raises(DataError, match="no split 'val'; it has train, test"):
    pipeline.check(data_config, "val")


def test_other_pixels_under_the_same_names_are_other_data(tmp_path):
  digests = set()
  for level in (0, 0, 1):
    video = np.full((4, 8, 8, 3), level, np.uint8)
    array_record.write(tmp_path, "train", [array_record.Record("a", video)], 8.0)
    row = array_record.load_metadata(tmp_path)["splits"]["train"]
    digests.add(array_record.RecordVideos(tmp_path, "train", row).digest())
  assert len(digests) == 2


@pytest.mark.parametrize(
  "text", ["[1]", "{}", '{"format": "lamd_clips", "version": 1}']
)
def test_array_record_refuses_other_metadata(tmp_path, text):
  (tmp_path / "metadata.json").write_text(text)
  with pytest.raises(DataError, match="is not of the format"):
    array_record.load_metadata(tmp_path)


def test_a_damaged_list_of_classes_is_one_line(tmp_path):
  (tmp_path / "ucfTrainTestlist").mkdir()
  (tmp_path / "ucfTrainTestlist" / "classInd.txt").write_text("ApplyEyeMakeup\n")
  with pytest.raises(DataError, match="classInd.txt: expected lines such as"):
    ucf101.scan(tmp_path)


def test_array_record_refuses_other_shapes(tmp_path):
  bad = [
    array_record.Record("a", np.zeros((4, 8, 8, 3), np.uint8)),
    array_record.Record("b", np.zeros((4, 8, 9, 3), np.uint8)),
  ]
  with pytest.raises(DataError, match=r"b: is uint8 \(4, 8, 9, 3\)"):
    array_record.write(tmp_path, "train", bad, fps=8)
  assert not (tmp_path / array_record.METADATA).exists()


def test_procedural_matches_its_world(data_config):
  data_config.update(source="procedural", num_videos=3, stride=2, size=24)
  from lamd_jax.data import procedural

  read = pipeline.clips(data_config, "test", 3, 0)
  world = procedural.world("sky", "drift")
  for i in range(3):
    assert np.array_equal(read[i], world.sample("test", i, 7, 24).video[::2])
  assert pipeline.fps(data_config) == 4.0


def test_missing_folder_and_empty_folder_are_one_line(tmp_path, data_config):
  data_config.source = "folder"
  for root, words in (("", "--config.data.root=DIR"), ("/no/such", "no such folder")):
    data_config.root = root
    with pytest.raises(DataError, match=words) as error:
      pipeline.check(data_config, "train")
    assert "\n" not in str(error.value)
  data_config.root = str(tmp_path)
  with pytest.raises(DataError, match="holds no video that.*tools.doctor"):
    pipeline.check(data_config, "train")


def test_runs_and_samples_below_are_not_data(tmp_path, make):
  """A model would learn from its own previews."""
  for marks in (("config.json", "STATUS"), ("config.json", "model.safetensors"),
                ("samples.json",), ("journal.json",)):  # fmt: skip
    folder = tmp_path / "-".join(marks)
    make.frames(folder / "autoencoder" / "samples", 2)
    for name in marks:
      (folder / name).touch()
  make.frames(tmp_path / "mine", 2)
  (tmp_path / "mine" / "config.json").touch()
  (tmp_path / "samples.json").touch()  # of the root, which was named
  assert [folder for folder, *_ in files.walk(tmp_path)] == ["", "mine"]


def test_links_that_lead_back_do_not_trap_the_walk(tmp_path, make):
  make.frames(tmp_path / "a", 2)
  (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
  assert len(list(files.walk(tmp_path))) < 10


def test_registry_covers_the_config():
  from lamd_jax import limits

  assert set(registry.OPEN) == set(limits.CHOICES["data.source"])
  assert clips.DRAWN == -1
