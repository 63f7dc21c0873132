# SPDX-License-Identifier: Apache-2.0
"""MUG on a tiny tree of the published layout."""

import pytest

from lamd_jax.data import pipeline
from lamd_jax.data.sources import mug, registry
from lamd_jax.errors import DataError
from lamd_jax.tools import doctor


@pytest.fixture
def tree(tmp_path, make):
  """Subjects 008 (train), 049 (test, one folder more) and 005 (in neither split)."""
  root = tmp_path / "data"
  for path, count in (
    ("008/anger/take000", 9), ("008/surprise/take001", 5), ("008/surprise/take002", 5),
    ("049/session0/fear/take000", 7), ("049/session0/neutral/take000", 7),
    ("049/session1/fear/take000", 7), ("005/anger/take000", 5),
  ):  # fmt: skip
    make.frames(root / path, count, suffix=".jpg", stem="img_000")
  make.frames(root / "008" / "mixed", 4, suffix=".jpg")
  return root


def test_labels_captions_and_splits_by_subject(tree, make, data_config):
  data_config.update(source="mug", sampling="first")
  train, test = (registry.OPEN["mug"](data_config, s) for s in ("train", "test"))
  assert [train.name(v) for v in range(3)] == [
    "008/anger/take000", "008/surprise/take001", "008/surprise/take002",
  ]  # fmt: skip
  assert train.labels.tolist() == [0, 6, 6] and train.caption(2) == "surprise"
  # Each folder once, also below the further level.
  assert [test.name(v) for v in range(len(test.n_frames))] == [
    "049/session0/fear/take000", "049/session0/neutral/take000",
    "049/session1/fear/take000",
  ]  # fmt: skip
  assert test.labels.tolist() == [2, 4, 2]
  assert len(registry.OPEN["mug"](data_config, "all").n_frames) == 7
  read = pipeline.clips(data_config, "train", 9, 0)
  assert make.numbers(read[0]).tolist() == [0, 1, 2, 3]


def test_labels_reach_the_batch(tree, data_config):
  data_config.source = "mug"
  with pipeline.loader(data_config, split="train", batch=3, seed=0) as loader:
    assert sorted(next(loader).label.tolist()) == [0, 6, 6]


def test_lists_of_subjects_are_disjoint_halves():
  assert len(mug._TRAIN) == len(mug._TEST) == 26 and not mug._TRAIN & mug._TEST


@pytest.mark.parametrize("sampling", ["linspace", "jittered", "very_random"])
def test_samplings_of_40_frames_repeat_the_end_of_short_takes(
  tree, make, data_config, sampling
):
  data_config.update(source="mug", frames=8, sampling=sampling, pad_last=True)
  numbers = [make.numbers(c) for c in pipeline.clips(data_config, "train", 9, 0)]
  assert len(numbers) == 3 and all(row[0] == 0 for row in numbers)
  assert numbers[0][-1] <= 8
  if sampling != "very_random":
    assert numbers[0][-1] == 8
    assert numbers[1].tolist() == [0, 1, 2, 3, 4, 4, 4, 4]


def test_a_damaged_take_is_named_and_counted(tree, data_config):
  next((tree / "008/anger/take000").iterdir()).write_bytes(b"nothing")
  data_config.source = "mug"
  with pytest.raises(DataError, match="1 of 3 cannot be read .*008/anger/take000: "):
    pipeline.check(data_config, "train")
  data_config.max_bad_fraction = 0.4
  assert pipeline.check(data_config, "train") == 2


def test_doctor(tree, capsys):
  assert doctor.main([str(tree)]) == 0
  out = capsys.readouterr().out
  assert "layout  MUG" in out and "--config.data.source=mug" in out
  assert "1 folders of images are no take" in out and "1 takes are of subjects" in out
