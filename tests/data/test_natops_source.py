# SPDX-License-Identifier: Apache-2.0
"""NATOPS on a tiny tree of the published layout, and cut into folders of images."""

import numpy as np
import pytest

from lamd_jax import config as config_lib
from lamd_jax import validation
from lamd_jax.data import index, pipeline, transforms
from lamd_jax.data.sources import natops, registry
from lamd_jax.errors import ConfigError, DataError
from lamd_jax.tools import doctor

SUBJECTS = 20


def _segments(rows):
  """The published text: every subject, every gesture, only `rows` with repetitions."""
  lines = ["// Segmentation file", ""]
  for subject in range(1, SUBJECTS + 1):
    lines.append(f"// Subject {subject}")
    for gesture in range(1, 25):
      lines.append(f"{gesture},{subject},20")
      for k, (first, last) in enumerate(rows.get((gesture, subject), []), 1):
        lines.append(f"{k}:{first},{last}")
    lines.append("")
  return "\r\n".join(lines)


@pytest.fixture
def tree(tmp_path, make):
  """Gestures 1 and 24 by subjects 3 (train), 2 (test) and 1 (left out)."""
  root = tmp_path / "data"
  rows = {}
  for gesture in (1, 24):
    for subject in (1, 2, 3):
      name = f"gesture{gesture:02d}/g{gesture:02d}s{subject:02d}.avi"
      make.video(root / name, 40, fps=20)
      rows[gesture, subject] = [(1, 10), (13, 40)]
  (root / "segmentation.txt").write_text(_segments(rows))
  return root


def test_repetitions_are_frames_of_their_file(tree, make, data_config):
  data_config.update(source="natops", sampling="first", frames=10)
  read = pipeline.clips(data_config, "train", 99, 0)
  # Counted from 1 and with both ends: frames 0 to 9, and from 12 on.
  assert [make.numbers(clip).tolist() for clip in read] == [
    list(range(10)), list(range(12, 22)),
  ] * 2  # fmt: skip
  videos = registry.OPEN["natops"](data_config, "test")
  assert videos.fps == 20 and videos.n_frames.tolist() == [10, 28] * 2
  assert videos.labels.tolist() == [0, 0, 23, 23]
  assert videos.name(3) == "gesture24/g24s02.avi#p02"
  assert [videos.caption(v) for v in (0, 3)] == ["i have command", "cut engine"]
  # A file is decoded once for all its repetitions, and has one line in the index.
  assert len(index.load(tree)) == 6


def test_labels_reach_the_batch_and_starts_stay_inside(tree, make, data_config):
  data_config.update(source="natops", frames=8)
  with pipeline.loader(data_config, split="train", batch=4, seed=0) as loader:
    for _ in range(8):
      batch = next(loader)
      assert sorted(batch.label.tolist()) == [0, 0, 23, 23]
      for clip in batch.video:
        numbers = make.numbers(clip)
        assert (np.diff(numbers) == 1).all()
        assert numbers[-1] <= 9 or (numbers[0] >= 12 and numbers[-1] <= 39)


def test_rate_of_clips_that_span_a_repetition_is_the_config_s(tree, data_config):
  # The index has the length of a file, of which a repetition is a small part.
  data_config.update(source="natops", frames=8)
  pipeline.check(data_config, "train")
  assert pipeline.fps(data_config) == 20
  data_config.sampling = "linspace"
  assert pipeline.fps(data_config) == data_config.fps


def test_splits_are_by_subject():
  items = {s: natops._item("x", "video", 1, s).split for s in range(1, SUBJECTS + 1)}
  assert [s for s in items if items[s] == "train"] == [3, 4, 8, 9, 12, 13, 15, 17, 19, 20]
  assert [s for s in items if items[s] == "test"] == [2, 5, 6, 7, 10, 11, 14, 16, 18]
  assert items[1] == "unlisted" and len(set(natops.NAMES)) == 24


def test_damage_is_named_and_counted(tree, data_config):
  (tree / "gesture01" / "g01s03.avi").write_bytes(b"RIFF")
  data_config.update(source="natops")
  with pytest.raises(DataError, match="2 of 4 cannot be read .*g01s03.avi#p01"):
    pipeline.check(data_config, "train")
  text = (tree / "segmentation.txt").read_text().replace("13,40", "13,41")
  (tree / "segmentation.txt").write_text(text)
  with pytest.raises(DataError, match="frames 12 to 40 of a file of 40"):
    pipeline.check(data_config, "test")
  data_config.max_bad_fraction = 0.5
  assert pipeline.check(data_config, "test") == 2


@pytest.mark.parametrize("line", ["1:0,5", "1:9,8", "1:1,99999999"])
def test_impossible_segments_are_named_with_their_line(tree, data_config, line):
  text = (tree / "segmentation.txt").read_text()
  (tree / "segmentation.txt").write_text(text.replace("1:1,10", line, 1))
  data_config.source = "natops"
  with pytest.raises(DataError, match=f"line 5: '{line}'"):
    pipeline.check(data_config, "train")


def test_without_segments_nothing_is_guessed(tree, data_config, capsys):
  (tree / "segmentation.txt").unlink()
  data_config.source = "natops"
  with pytest.raises(DataError, match="segmentation.txt is missing: it says which"):
    pipeline.check(data_config, "train")
  assert doctor.main([str(tree)]) == 3
  assert "problem segmentation.txt is missing" in capsys.readouterr().out


def test_cut_into_folders(tmp_path, make, data_config):
  root = tmp_path / "data"
  for name in ("g05s03p01", "g05s03p20", "g24s18p07"):
    make.frames(root / name, 6, stem=f"{name}-0000-")
  data_config.update(source="natops", sampling="first")
  videos = registry.OPEN["natops"](data_config, "train")
  assert videos.labels.tolist() == [4, 4] and videos.name(1) == "g05s03p20"
  assert len(pipeline.clips(data_config, "train", 9, 0)) == 2
  assert pipeline.check(data_config, "test") == 1


def test_resize_natops_cuts_the_box_and_adds_bars():
  video = np.zeros((1, 240, 320, 3), np.uint8)
  video[:, 10:239, 30:290] = 255  # 229 x 260
  square = transforms.resize(video, 128, "natops")[0, ..., 0]
  # 229 x 128 / 260 is 113 rows, seven dark ones above and eight below.
  assert (square.min(1) == 255).sum() == 113
  assert not square[:7].any() and not square[-8:].any() and square[7:120].min() == 255
  with pytest.raises(DataError, match="not out of 64x48"):
    transforms.resize(np.zeros((1, 48, 64, 3), np.uint8), 32, "natops")


def test_doctor_and_flip(tree, capsys):
  assert doctor.main([str(tree)]) == 0
  out = capsys.readouterr().out
  assert "layout  NATOPS" in out and "unlisted 4, test 4, train 4" in out
  assert "--config.data.resize=natops" in out and "rate    20.00" in out
  config = config_lib.defaults()
  config.data.update(source="natops", flip=True)
  with pytest.raises(ConfigError, match="left and right are different gestures"):
    validation._check_world(config)
