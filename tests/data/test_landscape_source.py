# SPDX-License-Identifier: Apache-2.0
"""Landscape (Sky Time-lapse) as published and as others lay it out, and QST."""

import pytest

from lamd_jax.data import pipeline
from lamd_jax.data.sources import frames, landscape
from lamd_jax.errors import DataError
from lamd_jax.tools import doctor


def _published(root, make):
  for name, count in (("sky_train/-aB/-aB_1", 9), ("sky_train/-aB/-aB_2", 5),
                      ("sky_test/xy_/xy__1", 7)):  # fmt: skip
    stem = f"{name.split('/')[1]}_frames_0000"
    make.frames(root / name, count, first=1095, suffix=".jpg", stem=stem)


def test_as_published(tmp_path, make, data_config):
  root = tmp_path / "data"
  _published(root, make)
  data_config.update(source="landscape", sampling="first", fps=25.0)
  read = pipeline.clips(data_config, "train", 9, 0)
  assert [make.numbers(clip).tolist() for clip in read] == [[0, 1, 2, 3]] * 2
  assert len(pipeline.clips(data_config, "test", 9, 0)) == 1
  # The same clips as the plain reader of folders, so scores can be compared.
  assert landscape.scan(root) == frames.scan(root)
  assert pipeline.fps(data_config) == 25.0  # none is stored


@pytest.mark.parametrize(
  "paths",
  [
    ("train/v1/frame00000.png", "val/v2/frame00000.png"),  # PVDM
    ("train/a/a_1/a_frames_00000001.jpg", "test/b/b_1/b_frames_00000001.jpg"),  # LVDM
    ("sky_train/a/a_1/frame0.jpg", "sky_test/b/b_1/frame0.jpg"),  # cINN
  ],
)
def test_derived_layouts(tmp_path, make, data_config, paths):
  root = tmp_path / "data"
  for path in paths:
    folder, name = path.rsplit("/", 1)
    make.frames(root / folder, 6, suffix=name[-4:], stem="frame")
  data_config.source = "landscape"
  assert [len(pipeline.clips(data_config, s, 9, 0)) for s in ("train", "test")] == [1, 1]


def test_a_damaged_picture_is_named_and_counted(tmp_path, make, data_config):
  root = tmp_path / "data"
  _published(root, make)
  next((root / "sky_train/-aB/-aB_1").iterdir()).write_bytes(b"\xff\xd8 not a picture")
  data_config.source = "landscape"
  with pytest.raises(DataError, match="1 of 2 cannot be read .*-aB_1"):
    pipeline.check(data_config, "train")
  data_config.max_bad_fraction = 0.5
  assert pipeline.check(data_config, "train") == 1


@pytest.fixture
def qst(tmp_path, make):
  root = tmp_path / "data"
  for path in ("-aB/-aB 0-9", "-aB/-aB 12-20", "cd_/cd_ 3-9", "ef/ef 0-4", "gh/gh 1-2"):
    make.video(root / "clips" / f"{path}.mp4", 6)
  (root / "train_urls.txt").write_text("-aB 0-9\n-aB 12-20\n")
  (root / "val_urls.txt").write_text("ef 0-4\n")
  (root / "test_urls.txt").write_text("cd_ 3-9\nzz 5-6\n")
  return root


def test_qst_lists_give_the_splits(qst, make, data_config):
  listing = landscape.scan(qst)
  assert {item.id: item.split for item in listing.items} == {
    "clips/-aB/-aB 0-9.mp4": "train",
    "clips/-aB/-aB 12-20.mp4": "train",
    "clips/cd_/cd_ 3-9.mp4": "test",
    "clips/ef/ef 0-4.mp4": "val",
    "clips/gh/gh 1-2.mp4": "unlisted",
  }
  notes = " ".join(listing.notes)
  assert "1 clips of the lists are not there" in notes and "1 clips stand in no" in notes
  data_config.update(source="landscape", sampling="first")
  read = pipeline.clips(data_config, "train", 9, 0)
  assert make.numbers(read[1]).tolist() == [0, 1, 2, 3]


def test_qst_lists_of_ids_mean_all_their_clips(qst):
  (qst / "train_urls.txt").write_text("-aB\n")
  listing = landscape.scan(qst)
  assert sum(item.split == "train" for item in listing.items) == 2
  assert not any("2 clips of the lists" in note for note in listing.notes)


@pytest.mark.parametrize("tree", ["published", "qst"])
def test_doctor(tmp_path, make, capsys, tree, request, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  if tree == "qst":
    request.getfixturevalue("qst")
  else:
    _published(tmp_path / "data", make)
  assert doctor.main([str(tmp_path / "data")]) == 0
  assert "--config.data.source=landscape" in capsys.readouterr().out
