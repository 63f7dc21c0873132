# SPDX-License-Identifier: Apache-2.0
"""A command lists a folder once, and sees the videos that it saw first."""

import clip_files
import pytest

from lamd_jax import config as config_lib
from lamd_jax import media
from lamd_jax import own_data
from lamd_jax.data import listings
from lamd_jax.data import pipeline
from lamd_jax.data.sources import folder


@pytest.fixture
def videos(tmp_path, monkeypatch):
  """A function that adds a video, the config of the folder, and what was listed."""
  scanned, scan = [], folder.scan

  def counted(root):
    scanned.append(root)
    return scan(root)

  monkeypatch.setattr(folder, "scan", counted)
  monkeypatch.setitem(own_data.registry.SCAN, "folder", counted)

  def add(name):
    clip = clip_files.waves(1, frames=4, size=16)[0]
    media.write_mp4(tmp_path / f"{name}.mp4", clip, 8)

  for name in ("train/a", "train/b", "test/c"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    add(name)
  data = config_lib.defaults().data
  data.update(source="folder", root=str(tmp_path), frames=4, size=16)
  return add, data, scanned


def test_within_a_command_once(videos):
  add, data, scanned = videos
  with listings.listed_once():
    own_data.look(data.root)
    found = pipeline.fingerprint(data, "train")
    assert pipeline.check(data, "train") == 2 and pipeline.check(data, "test") == 1
    data.frames = 2  # other clips, of the same videos
    pipeline.check(data, "train")
    add("train/new")
    data.frames = 4
    assert pipeline.fingerprint(data, "train") == found
  assert len(scanned) == 1
  assert pipeline.check(data, "train") == 3 and len(scanned) == 2


def test_outside_of_one_every_time(videos):
  _, data, scanned = videos
  assert [pipeline.check(data, "train") for _ in range(3)] == [2, 2, 2]
  assert len(scanned) == 3


def test_a_command_that_fails_leaves_nothing_behind(videos):
  _, data, scanned = videos
  with pytest.raises(ValueError), listings.listed_once():
    pipeline.check(data, "train")
    raise ValueError
  pipeline.check(data, "train")
  assert len(scanned) == 2
