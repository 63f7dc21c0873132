# SPDX-License-Identifier: Apache-2.0
"""DAVIS on a tiny tree of the published layout, with prompts and masks."""

import numpy as np
from PIL import Image
import pytest

from lamd_jax.data import pipeline
from lamd_jax.data.sources import davis, registry
from lamd_jax.errors import DataError
from lamd_jax.tools import doctor


@pytest.fixture
def tree(tmp_path, make):
  root = tmp_path / "data"
  for name, count in (("bear", 6), ("bmx-trees", 5), ("judo", 7), ("extra", 5)):
    make.frames(root / "JPEGImages" / "480p" / name, count, suffix=".jpg", stem="0000")
  folder = root / "Annotations" / "480p" / "bear"
  folder.mkdir(parents=True)
  for t in range(6):
    objects = np.zeros((24, 32), np.uint8)
    objects[:, t : t + 8], objects[:4, -4:] = 1, 2
    picture = Image.fromarray(objects, "P")
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    picture.save(folder / f"{t:05d}.png")
  lists = root / "ImageSets" / "2017"
  lists.mkdir(parents=True)
  (lists / "train.txt").write_text("bear\nbmx-trees\n")
  (lists / "val.txt").write_text("judo\n")
  return root


def test_splits_of_2017_and_frames(tree, make, data_config):
  data_config.update(source="davis", sampling="first", stride=1)
  read = pipeline.clips(data_config, "train", 9, 0)
  assert len(read) == 2 and make.numbers(read[0]).tolist() == [0, 1, 2, 3]
  videos = registry.OPEN["davis"](data_config, "test")  # val stands in
  assert [videos.name(v) for v in range(len(videos.n_frames))] == ["judo"]
  assert videos.caption(0) == ""


def test_prompts_are_captions_and_may_repeat_a_video(tree, data_config):
  text = 'video,prompt\nbear,"a bear, in the\nsnow"\nbear,a toy bear\njudo,two robots\n'
  (tree / "prompts.csv").write_text(text + "nobody,nothing\n")
  data_config.update(source="davis", sampling="first")
  videos = registry.OPEN["davis"](data_config, "train")
  assert [(videos.name(v), videos.caption(v)) for v in range(3)] == [
    ("bear", "a bear, in the\nsnow"), ("bear#1", "a toy bear"), ("bmx-trees", ""),
  ]  # fmt: skip
  read = pipeline.clips(data_config, "train", 9, 0)
  assert np.array_equal(read[0], read[1]) and len(read) == 3
  assert pipeline.captions(data_config, "val", 9, 0) == ["two robots"]
  assert any("1 videos of prompts.csv are not" in n for n in davis.scan(tree).notes)
  (tree / "prompts.csv").write_text("name,text\nbear,x\n")
  with pytest.raises(DataError, match="first line must be video,prompt"):
    davis.scan(tree)


def test_masks_are_palette_indices(tree):
  masks = davis.masks(tree, "bear")
  assert masks.shape == (6, 24, 32) and masks.dtype == np.uint8
  assert (masks == 1).sum((1, 2)).tolist() == [24 * 8] * 6
  assert np.unique(masks).tolist() == [0, 1, 2]
  with pytest.raises(DataError, match="judo has no masks"):
    davis.masks(tree, "judo")
  with pytest.raises(DataError, match="does not lie below"):
    davis.masks(tree, "../../JPEGImages")
  # Colours instead of indices would number the objects at random.
  path = tree / "Annotations" / "480p" / "bear" / "00003.png"
  Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(path)
  with pytest.raises(DataError, match="00003.png: is RGB"):
    davis.masks(tree, "bear")


def test_a_damaged_frame_is_named_and_counted(tree, data_config):
  folder = tree / "JPEGImages" / "480p" / "bear"
  next(folder.iterdir()).write_bytes(b"no picture")
  data_config.update(source="davis")
  with pytest.raises(DataError, match="1 of 2 cannot be read .*bear: "):
    pipeline.check(data_config, "train")


def test_full_resolution_where_nothing_else_is(tmp_path, make):
  make.frames(tmp_path / "JPEGImages" / "Full-Resolution" / "bear", 3)
  (item,) = davis.scan(tmp_path).items
  assert item.path == "JPEGImages/Full-Resolution/bear" and item.split == ""


def test_doctor(tree, capsys):
  assert doctor.main([str(tree)]) == 0
  out = capsys.readouterr().out
  assert "layout  DAVIS" in out and "--config.data.source=davis" in out
  assert "train 2" in out and "val 1" in out
