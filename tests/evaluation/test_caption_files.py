# SPDX-License-Identifier: Apache-2.0
"""Captions find their clips by name or by order, or one line says why not."""

import json

import pytest

from lamd_jax.errors import DataError
from lamd_jax.evaluation import caption_files

CLIPS = ["a/0001.mp4", "a/0002.mp4"]


@pytest.mark.parametrize(
  "data",
  [
    [{"image_id": "0002.avi", "caption": "two"}, {"video": "x/0001.mp4", "caption": "one"}],
    {"0001": "one", "0002": "two", "0003": "three"},
    ["one", "two", "three"],
  ],
)
def test_all_forms(tmp_path, data):
  path = tmp_path / "captions.json"
  path.write_text(json.dumps(data))
  captions = caption_files.read(path)
  assert caption_files.for_clips(captions, CLIPS) == ["one", "two"]


def test_text_goes_by_order(tmp_path):
  path = tmp_path / "captions.txt"
  path.write_text("one\ntwo\n", "utf-8-sig")  # with the mark that some editors put first
  captions = caption_files.read(path)
  assert caption_files.for_clips(captions, ["x.npz[0]", "x.npz[1]"]) == ["one", "two"]
  with pytest.raises(DataError, match="2 captions for 3 clips"):
    caption_files.for_clips(captions, ["x"] * 3)


@pytest.mark.parametrize(
  "text, said",
  [
    ("{", "no file of captions"), ("[]", "neither a list"), ("[1]", "has no name"),
    ('[{"id": "a", "caption": 3}]', "has no name or no caption"),
    ('[{"id": "a.1", "caption": ""}, {"id": "a.2", "caption": ""}]', "two captions"),
  ],
)
def test_bad_files_are_one_line(tmp_path, text, said):
  path = tmp_path / "captions.json"
  path.write_text(text)
  with pytest.raises(DataError, match=said) as caught:
    caption_files.read(path)
  assert "\n" not in str(caught.value)


def test_names_that_do_not_fit(tmp_path):
  path = tmp_path / "captions.json"
  path.write_text('{"0001": "one"}')
  captions = caption_files.read(path)
  with pytest.raises(DataError, match=r"no caption of a/0002.mp4 \(1 such clips of 2\)"):
    caption_files.for_clips(captions, CLIPS)
  with pytest.raises(DataError, match="of which clips share some"):
    caption_files.for_clips(captions, ["0001.npz[0]", "0001.npz[1]"])
  with pytest.raises(DataError, match="no file of captions"):
    caption_files.read(tmp_path / "gone.json")
