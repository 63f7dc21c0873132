# SPDX-License-Identifier: Apache-2.0
"""Where samples are written: a folder a wish, whole, and no clip of an earlier command."""

from etils import epath
import numpy as np
import pytest

from lamd_jax import clip
from lamd_jax import config as config_lib
from lamd_jax import media
from lamd_jax.errors import ConfigError
from lamd_jax.modes import sample as mode

RUN = epath.Path("/runs/sky")


def _folder(texts=("",), workdir=RUN, **changes):
  sample = config_lib.sample_defaults(changes.get("sampler", ""))
  sample.update(changes)
  return mode._folder(sample, workdir, list(texts))


def test_each_wish_has_a_folder():
  plain = _folder()
  assert plain.name == "dpmpp_2m-20-seed0" and plain.parent.name == "samples"
  assert _folder(seed=3).name == "dpmpp_2m-20-seed3"
  # Clip i is the same, however many are made, and how.
  assert _folder(n=16, batch=2, decode_chunk=1, formats=("gif",), strip=4) == plain
  changed = [
    _folder(["a cone"]), _folder(["a cone", "a snitch"]), _folder(guidance=2.0),
    _folder(image="a.png"), _folder(frames=32), _folder(weights="raw"), plain,
  ]  # fmt: skip
  assert len(set(changed)) == len(changed)
  assert _folder(["a cone"]) == _folder(["a cone"], text="words.txt")
  # A sampler's own defaults are no wish.
  assert _folder(sampler="consistency").name == "consistency-4-seed0"


def test_a_bucket_and_a_file_are_no_folders(tmp_path):
  bucket = epath.Path("gs://bucket/sky")
  with pytest.raises(ConfigError, match="name one with --sample.out"):
    _folder(workdir=bucket)
  assert _folder(workdir=bucket, out=str(tmp_path)) == tmp_path
  (tmp_path / "clip.mp4").touch()
  with pytest.raises(ConfigError, match="is a file; name a folder"):
    _folder(out=str(tmp_path / "clip.mp4"))


def _made(count, frames=4):
  return [clip.Clip(np.full((frames, 8, 8, 3), 9 * i, np.uint8), 8) for i in range(count)]


def test_clips_of_an_earlier_command_go(tmp_path):
  mode.write_clips(tmp_path, _made(3), ("mp4", "gif", "png"))
  (tmp_path / "mine.mp4").touch()
  mode._remove_old(tmp_path)
  assert (tmp_path / "002.mp4").exists()  # no samples.json: not known to be ours
  (tmp_path / "samples.json").touch()
  mode._remove_old(tmp_path)
  left = {path.name for path in tmp_path.iterdir()}
  assert left == {"mine.mp4", "samples.json", "grid.mp4", "sheet.png"}


def test_a_grid_stays_within_what_encoders_take(tmp_path, monkeypatch):
  monkeypatch.setattr(mode, "_LARGEST_SIDE", 20)  # two clips of 8 pixels, and seams
  mode.write_clips(tmp_path, _made(7, 1), ("mp4",))
  assert media.read_video(tmp_path / "grid.mp4")[0].shape[1:3] == (18, 18)
