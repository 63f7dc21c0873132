"""Captioned videos from csv files: WebVid's columns, plain ones, and what goes wrong."""

import csv

import numpy as np
import pytest

from lamd_jax import config as config_lib
from lamd_jax import media
from lamd_jax.data import pipeline
from lamd_jax.data import tokenizers
from lamd_jax.data.sources import csv_table
from lamd_jax.errors import DataError


def _video(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  media.write_mp4(path, np.full((6, 16, 16, 3), value, np.uint8), 8)


def _table(path, header, rows):
  with open(path, "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([header, *rows])


def _data(root):
  data = config_lib.defaults().data
  data.update(source="csv", root=str(root), frames=4, size=16, tokenizer="words",
              tokens=8, vocabulary_size=256)  # fmt: skip
  return data


def test_webvid(tmp_path):
  header = ["videoid", "contentUrl", "duration", "page_dir", "name"]
  caption = 'a cat, "quoted",\nover two lines'
  _table(tmp_path / "results_train.csv", header,
         [[1, "x", "y", "000", caption], [2, "x", "y", "000", "gone"]])  # fmt: skip
  _table(tmp_path / "results_val.csv", header, [[3, "x", "y", "001", "a dog"]])
  _video(tmp_path / "videos/000/1.mp4", 40)
  _video(tmp_path / "videos/001/3.mp4", 90)
  listing = csv_table.scan(tmp_path)
  assert [(i.path, i.split, i.caption) for i in listing.items] == [
    ("videos/000/1.mp4", "train", caption), ("videos/001/3.mp4", "val", "a dog"),
  ]  # fmt: skip
  assert listing.notes == ["1 videos of the csv are not there"]
  data = _data(tmp_path)
  assert pipeline.captions(data, "test", 1, 0) == ["a dog"]
  with pipeline.loader(data, split="train", batch=1, seed=0) as loader:
    tokens = next(loader).tokens
  np.testing.assert_array_equal(tokens[0], tokenizers.Words(8, 256)(caption))


def test_plain_columns(tmp_path):
  _table(tmp_path / "mine.csv", ["path", "text", "label", "split"],
         [["a.mp4", "one", "3", "train"], ["b/c.mp4", "two", "4", "test"],
          ["a.mp4", "again", "5", "train"]])  # fmt: skip
  _video(tmp_path / "a.mp4", 10)
  _video(tmp_path / "b/c.mp4", 20)
  listing = csv_table.scan(tmp_path)
  assert [(i.caption, i.label, i.split) for i in listing.items] == [
    ("one", 3, "train"), ("two", 4, "test")
  ]  # fmt: skip
  assert listing.notes == ["1 videos are listed twice; the first caption counts"]


def test_splits_by_other_names_are_kept(tmp_path):
  for name in "ab":
    _video(tmp_path / f"{name}.mp4", 10)
  for first, second, known in (
    ("Train", "Test", ["train", "test"]), ("training", "validation", ["train", "val"])
  ):  # fmt: skip
    _table(tmp_path / "mine.csv", ["path", "text", "split"],
           [["a.mp4", "x", first], ["./b.mp4", "x", second]])  # fmt: skip
    found = csv_table.scan(tmp_path).items
    assert [(i.path, i.split) for i in found] == [("a.mp4", known[0]), ("b.mp4", known[1])]


def test_odd_cells_end_nothing(tmp_path):
  _video(tmp_path / "a.mp4", 10)
  # A caption where a path should be, a label that is no number, a table of others.
  _table(tmp_path / "mine.csv", ["path", "text", "label"],
         [["a" * 300, "x", "1"], ["a.mp4", "=1+1", "\u00b2"]])  # fmt: skip
  (tmp_path / "other.csv").write_text('"' + "x" * 140_000)
  listing = csv_table.scan(tmp_path)
  assert [(i.path, i.caption, i.label) for i in listing.items] == [("a.mp4", "=1+1", -1)]
  assert listing.notes == ["1 videos of the csv are not there"]


@pytest.mark.parametrize("path", ["../outside.mp4", "/etc/passwd", "a/../../b.mp4", ""])
def test_a_table_reads_nothing_from_elsewhere(tmp_path, path):
  _table(tmp_path / "mine.csv", ["path", "text"], [[path, "x"]])
  with pytest.raises(DataError, match="row 2"):
    csv_table.scan(tmp_path)
