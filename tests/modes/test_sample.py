# SPDX-License-Identifier: Apache-2.0
"""Where samples are written: a folder a wish, whole, no file of an earlier command."""

import json

from etils import epath
import numpy as np
import pytest

from lamd_jax import clip
from lamd_jax import config as config_lib
from lamd_jax import exported
from lamd_jax import media
from lamd_jax import sample_checks
from lamd_jax.errors import ConfigError
from lamd_jax.modes import sample as mode
from lamd_jax.modes import sample_folder

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
    _folder(lora="a.safetensors"), _folder(lora="b.safetensors"),
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
    sample_folder.check(tmp_path / "clip.mp4")


@pytest.mark.parametrize("name", ["clip.mp4/sub", "new/" + 300 * "x", "/proc/nope"])
def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path, name):
  (tmp_path / "clip.mp4").touch()
  with pytest.raises(ConfigError, match="cannot be written .*; name another") as caught:
    sample_folder.check(tmp_path / name)
  assert "\n" not in str(caught.value)
  assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_what_can_be_written_is_found_out_without_a_trace(tmp_path):
  (tmp_path / "old").mkdir()
  for name in ("a/b/c", "old"):
    sample_folder.check(tmp_path / name)
  assert [path.name for path in tmp_path.rglob("*")] == ["old"]


def _made(count, frames=4):
  return [clip.Clip(np.full((frames, 8, 8, 3), 9 * i, np.uint8), 8) for i in range(count)]


def _record(folder, n, formats):
  record = {"sample": {"n": n, "formats": formats}, "frames": [4, 8, 8, 3]}
  (folder / "samples.json").write_text(json.dumps(record))


def test_files_of_an_earlier_command_go(tmp_path):
  formats = ("mp4", "gif", "png", "npz")
  mode.write_clips(tmp_path, _made(3), formats)
  ours = ("strip.png", "index.html", "input_002.mp4", "output_000.mp4")
  mine = ("mine.mp4", "007.mp4", "002/notes.txt", "input_007.mp4")
  for name in ours + mine:
    (tmp_path / name).touch()
  (tmp_path / "2024").mkdir()
  before = set(tmp_path.rglob("*"))
  assert sample_folder.remove_old(tmp_path) == 0
  assert set(tmp_path.rglob("*")) == before  # no samples.json: not known to be ours
  _record(tmp_path, 3, formats)
  assert sample_folder.remove_old(tmp_path) == 3
  left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
  assert left == {*mine, "002", "2024"}


def test_a_page_of_others_stays(tmp_path):
  (tmp_path / "index.html").touch()
  _record(tmp_path, 1, ["mp4"])
  sample_folder.remove_old(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


@pytest.mark.parametrize("name", ["001.mp4", "grid.mp4", "000"])
def test_files_of_others_are_not_replaced(tmp_path, name):
  (tmp_path / name).touch()
  (tmp_path / "002.mp4").touch()
  with pytest.raises(ConfigError, match=f"holds {name}, which no earlier command"):
    sample_folder.check_free(tmp_path, 2, ("mp4", "png"))
  _record(tmp_path, 3, ("mp4",))
  sample_folder.check_free(tmp_path, 2, ("mp4", "png"))


def test_a_long_video_outlives_short_clips(tmp_path):
  """OUT/000 is a long video's folder, and a clip's pictures would lie in it."""
  (tmp_path / "000").mkdir()
  (tmp_path / "000" / "journal.json").touch()
  (tmp_path / "000" / "video.mp4").touch()
  with pytest.raises(ConfigError, match="holds a long or edited video.*another --sample"):
    sample_folder.check_free(tmp_path, 1, ("png",))
  sample_folder.check_free(tmp_path, 1, ("mp4",))
  _record(tmp_path, 4, ("mp4", "png"))
  sample_folder.remove_old(tmp_path)
  assert len(list((tmp_path / "000").iterdir())) == 2
  with pytest.raises(ConfigError, match="another --sample.out"):
    sample_folder.check_free(tmp_path / "000", 1, ("mp4",))  # as the folder of an edit


def test_an_export_is_known_by_its_weights(tmp_path):
  def known(**files):
    facts = {"format": exported.FORMAT, "files": files}
    (tmp_path / exported.FACTS).write_text(json.dumps(facts))
    found = sample_folder.weights_of(tmp_path / "video", tmp_path, None, None)
    return found["weights_of"]["export"]

  one = known(**{"model.safetensors": "12", "README.md": "34"})
  assert one == known(**{"model.safetensors": "12", "README.md": "56"})
  assert one != known(**{"model.safetensors": "13", "README.md": "34"})


def test_what_is_written_where_no_format_is_named():
  sample = config_lib.sample_defaults()
  assert sample_checks.formats(sample, ("mp4",)) == ("mp4",)
  sample.formats = sample_checks.FORMATS  # by name: of long videos too
  assert sample_checks.formats(sample, ("mp4",)) == ("mp4", "gif", "png", "npz")


def test_a_grid_stays_within_what_encoders_take(tmp_path, monkeypatch):
  monkeypatch.setattr(mode, "_LARGEST_SIDE", 20)  # two clips of 8 pixels, and seams
  mode.write_clips(tmp_path, _made(7, 1), ("mp4",))
  assert media.read_video(tmp_path / "grid.mp4")[0].shape[1:3] == (18, 18)
