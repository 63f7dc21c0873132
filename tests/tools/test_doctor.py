# SPDX-License-Identifier: Apache-2.0
"""The doctor knows the published trees, says what is wrong, and names the flags."""

import json

import numpy as np
from PIL import Image
import pytest

from lamd_jax import media
from lamd_jax.data import layouts
from lamd_jax.data.sources import array_record
from lamd_jax.tools import doctor
from lamd_jax import limits

# Layout -> files of a tiny tree, the source that reads it ("" for none yet).
TREES = {
  "Sky Time-lapse": (
    ["sky_train/a/a_1/a_frames_00000001.jpg", "sky_test/b/b_1/b_frames_00000001.jpg"],
    "landscape",
  ),
  "folders of images": (["train/a/a_1/1.jpg", "test/b/b_1/1.jpg"], "frames"),
  "UCF-101, video files, as published": (
    ["UCF-101/Biking/v_Biking_g01_c01.gif", "ucfTrainTestlist/classInd.txt"], "ucf101",
  ),
  "UCF-101, video files, split into folders": (
    ["train/Biking/v_Biking_g01_c01.gif", "test/Biking/v_Biking_g09_c01.gif"], "ucf101",
  ),
  "UCF-101, folders of images": (
    ["train/v_Biking_g01_c01/1.jpg", "test/v_Biking_g09_c01/1.jpg"], "ucf101",
  ),
  "Taichi-HD": (
    ["train/a#000001#000200.gif", "test/b#000001#000200.gif"], "taichi",
  ),
  "folder of video files": (["x/a.gif", "b.gif"], "folder"),
  "BAIR robot pushing, TFRecords": (
    ["softmotion30_44k/train/traj_0_to_255.tfrecords"], "bair",
  ),
  "BAIR robot pushing, images": (["train/traj_0_to_255/0/0.png"], "bair"),
  "QST": (["clips/a/a 0-9.mp4", "train_urls.txt"], "landscape"),
  "CATER-GEN": (["videos/a.avi", "train_explicit.json"], "cater_gen"),
  "DAVIS": (["JPEGImages/480p/a/00000.jpg", "Annotations/480p/a/00000.png"], "davis"),
  "NATOPS": (["gesture01/g01s01.avi", "segmentation.txt"], "natops"),
  "NATOPS, cut out": (["g01s02p03/g01s02p03-0000-0000.png"], "natops"),
  "MUG": (["008/anger/take000/1.jpg", "008/fear/take000/1.jpg"], "mug"),
  "MUG facial expressions": (["002/x/anger/t/1.jpg", "002/x/fear/t/1.jpg"], "mug"),
  "Taichi-HD metadata": (["taichi-metadata.csv"], ""),
  "captioned videos": (["results.csv", "videos/000/1.mp4"], "csv"),
}  # fmt: skip


def _grow(root, names):
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
      media.write_gif(path, np.zeros((3, 8, 8, 3), np.uint8), 8)
    elif path.suffix in (".jpg", ".png"):
      Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    elif path.suffix == ".csv":
      path.write_text("videoid,contentUrl,duration,page_dir,name\n1,x,y,000,a cat\n")
    else:
      path.touch()


@pytest.mark.parametrize("name", TREES)
def test_published_trees_are_recognised(tmp_path, name):
  names, source = TREES[name]
  _grow(tmp_path, names)
  found = layouts.recognise(tmp_path)
  assert found.name.startswith(name) and found.source == source


@pytest.mark.parametrize("name", ["Sky Time-lapse", "UCF-101, video files, as published",
                                  "Taichi-HD", "folder of video files"])  # fmt: skip
def test_flags_of_a_readable_tree_and_exit_0(tmp_path, capsys, name):
  names, source = TREES[name]
  root = tmp_path / "my data"
  _grow(root, names)
  assert doctor.main([str(root)]) == 0
  out = capsys.readouterr().out
  assert f"flags   --config.data.source={source} '--config.data.root={root}'" in out
  assert "frames  " in out and "size    8x8" in out


def test_unsupported_tree_is_named_and_exit_3(tmp_path, capsys):
  _grow(tmp_path, TREES["Taichi-HD metadata"][0])
  assert doctor.main([str(tmp_path)]) == 3
  assert "Taichi-HD metadata" in (out := capsys.readouterr().out) and "no data.source" in out


def test_problems_are_listed(tmp_path, capsys):
  _grow(tmp_path, ["a.gif", "b.gif", "UCF/none.txt"])
  (tmp_path / "broken.mp4").write_text("text")
  assert doctor.main([str(tmp_path)]) == 0
  out = capsys.readouterr().out
  assert "problem broken.mp4: " in out and "videos  3" in out
  assert "--config.data.max_bad_fraction=0.34" in out


def test_a_missing_half_of_the_sky_is_said(tmp_path, capsys):
  _grow(tmp_path, ["sky_train/a/a_1/1.jpg"])
  assert doctor.main([str(tmp_path)]) == 0
  assert "problem the folder sky_test is missing" in capsys.readouterr().out


def test_nothing_known_prints_what_is_expected_and_exit_3(tmp_path, capsys):
  (tmp_path / "notes.docx").touch()
  assert doctor.main([str(tmp_path)]) == 3
  error = capsys.readouterr().err
  assert "1 .docx" in error
  for source in ("folder", "frames", "ucf101", "taichi", "array_record", "tfds"):
    assert f"--config.data.source={source}" in error
  assert "v_<Class>_gXX_cYY.avi" in error


def test_missing_folder_is_one_line_and_exit_3(tmp_path, capsys):
  assert doctor.main([str(tmp_path / "no")]) == 3
  captured = capsys.readouterr()
  assert captured.out == "" and len(captured.err.splitlines()) == 1
  assert "no such folder" in captured.err


def test_a_file_is_no_folder(tmp_path, capsys):
  (tmp_path / "a.mp4").write_bytes(b"")
  assert doctor.main([str(tmp_path / "a.mp4")]) == 3
  assert "a.mp4: is a file, not a folder" in capsys.readouterr().err


def test_data_one_folder_down_is_found(tmp_path, capsys):
  _grow(tmp_path / "archive", TREES["Sky Time-lapse"][0])
  assert doctor.main([str(tmp_path)]) == 0
  assert f"--config.data.root={tmp_path}/archive" in capsys.readouterr().out


def test_records_with_a_missing_shard(tmp_path, capsys):
  record = array_record.Record("a", np.zeros((3, 8, 8, 3), np.uint8))
  array_record.write(tmp_path, "train", [record, record], fps=8, shards=2)
  assert doctor.main([str(tmp_path)]) == 0
  assert "train: 2 videos 8x8" in capsys.readouterr().out
  (tmp_path / "train-00001-of-00002.array_record").unlink()
  assert doctor.main([str(tmp_path)]) == 3


def test_tfds_folder_names_its_flag(tmp_path, capsys):
  folder = tmp_path / "bouncing" / "1.0.0"
  folder.mkdir(parents=True)
  (folder / "dataset_info.json").write_text(json.dumps({}))
  assert doctor.main([str(tmp_path)]) == 0
  assert "--config.data.name=bouncing" in capsys.readouterr().out


def test_every_source_has_a_tree():
  for source in limits.CHOICES["data.source"]:
    assert layouts.expected_tree(source)
