# SPDX-License-Identifier: Apache-2.0
"""A journal names what is whole, and nothing else."""

import json

import numpy as np
import pytest

from lamd_jax import journal as journal_lib
from lamd_jax import segments
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError
from lamd_jax.journal import Journal

SETTINGS = {"seed": 0, "sample": {"steps": 20, "formats": ("mp4",)}}


def _frames(k):
  return np.full((2 + k, 16, 16, 3), 20 * k, np.uint8)


def _carry(k):
  # Values that a text or a float64 detour would not keep: -0, subnormal, NaN payload.
  odd = np.array([0x80000000, 0x00000001, 0x7FC00123 + k], np.uint32).view(np.float32)
  return {"latents": np.full((1, 2, 2, 4), k, np.float32) / 3, "tail": odd}


def _add(journal, k):
  segments.write_segment(journal.segment(k), _frames(k), 8)
  return journal.add(_frames(k), _carry(k), seconds=1.5)


@pytest.fixture
def folder(tmp_path):
  """A folder with units 0, 1 and 2."""
  journal = Journal(tmp_path, SETTINGS)
  assert journal.units == [] and journal.carry() == {}
  for k in range(3):
    _add(journal, k)
  return tmp_path


def test_opened_again_it_goes_on_with_the_same_bits(folder):
  journal = Journal(folder, SETTINGS)
  assert len(journal.units) == 3 and journal.frames == 2 + 3 + 4
  carry = journal.carry()
  assert carry.keys() == {"latents", "tail"}
  for name, array in _carry(2).items():
    assert carry[name].dtype == np.float32
    assert carry[name].tobytes() == array.tobytes()
    assert carry[name].shape == array.shape
  unit = journal.units[1]
  assert unit.latents.name == "latents/00001.npz"
  assert unit.segment.bytes == (folder / "segments/00001.mp4").stat().st_size
  assert unit.frames_sha256 == journal_lib.frames_sha256(_frames(1))


def test_a_hash_of_the_config_that_older_versions_had_does_not_count(folder):
  """It was also of the number of training steps, which frames do not depend on."""
  path = folder / "journal.json"
  path.write_text(path.read_text().replace('"seed"', '"config_hash": "c9e4", "seed"'))
  assert len(Journal(folder, SETTINGS).units) == 3
  assert "config_hash" in path.read_text()


def test_text_has_a_line_for_each_unit(folder):
  lines = (folder / "journal.json").read_text().splitlines()
  units = [line for line in lines if '"index"' in line]
  assert [json.loads(line.rstrip(","))["index"] for line in units] == [0, 1, 2]
  assert ' "steps": 20,' in "\n".join(lines)


@pytest.mark.parametrize("kind", ["latents/00001.npz", "segments/00001.mp4"])
@pytest.mark.parametrize("damage", ["flip", "short", "gone"])
def test_kept_up_to_the_first_damaged_unit(folder, caplog, kind, damage):
  path = folder / kind
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  if damage == "gone":
    path.unlink()
  else:
    path.write_bytes(data if damage == "flip" else data[:-1])
  with caplog.at_level("WARNING"):
    journal = Journal(folder, SETTINGS)
  assert [unit.index for unit in journal.units] == [0]
  (line,) = [r.getMessage() for r in caplog.records if kind in r.getMessage()]
  assert "units 1 to 2 of the stream are made again" in line
  # What is made again takes the place of what was dropped.
  _add(journal, 1)
  assert len(Journal(folder, SETTINGS).units) == 2


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"seed": 1}, "seed=1: .* begun with 0; .*--sample.out"),
    ({"sample": {"steps": 30, "formats": ("mp4",)}}, r"sample\.steps=30: .* with 20"),
    ({"eta": 1.0}, "eta=1.0: .* with no value"),
  ],
)
def test_other_settings_are_refused(folder, change, message):
  before = (folder / "journal.json").read_bytes()
  with pytest.raises(ConfigError, match=message) as caught:
    Journal(folder, {**SETTINGS, **change})
  assert "\n" not in str(caught.value)
  assert (folder / "journal.json").read_bytes() == before


@pytest.mark.parametrize(
  "text", ["{", "[]", '{"version": 9, "settings": {}, "units": [], "video": null}']
)
def test_unreadable_journal_is_named_and_left(folder, text):
  (folder / "journal.json").write_text(text)
  with pytest.raises(DataError, match="journal.json: not readable"):
    Journal(folder, SETTINGS)
  assert (folder / "journal.json").read_text() == text


def test_names_out_of_the_folder_are_refused(folder):
  path = folder / "journal.json"
  path.write_text(path.read_text().replace("latents/00001.npz", "../00001.npz"))
  with pytest.raises(DataError, match="unit 1 is not in its place"):
    Journal(folder, SETTINGS)


def test_killed_before_the_journal_has_its_name(folder, monkeypatch):
  """The next start finds the journal of before, whole."""
  journal = Journal(folder, SETTINGS)
  before = (folder / "journal.json").read_bytes()
  replace = journal_lib.media.os.replace

  def killed(source, target):
    if target.name == "journal.json":
      raise KeyboardInterrupt
    replace(source, target)

  monkeypatch.setattr(journal_lib.media.os, "replace", killed)
  with pytest.raises(KeyboardInterrupt):
    _add(journal, 3)
  monkeypatch.undo()
  assert (folder / "journal.json").read_bytes() == before
  assert (folder / "latents/00003.npz").exists()  # left over, and not believed
  assert len(Journal(folder, SETTINGS).units) == 3


def test_joined_video_is_verified(folder):
  journal = Journal(folder, SETTINGS)
  assert not journal.finished()
  (folder / "video.mp4").write_bytes(b"joined")
  journal.finish("video.mp4")
  assert Journal(folder, SETTINGS).finished()
  (folder / "video.mp4").write_bytes(b"Joined")
  assert not Journal(folder, SETTINGS).finished()


def test_shards_hold_float32_alone(tmp_path):
  journal = Journal(tmp_path, SETTINGS)
  segments.write_segment(journal.segment(0), _frames(0), 8)
  with pytest.raises(ValueError, match="'x' is object; shards hold float32"):
    journal.add(_frames(0), {"x": np.array([None])}, 0)
  assert not (tmp_path / "journal.json").exists()
