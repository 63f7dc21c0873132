# SPDX-License-Identifier: Apache-2.0
"""Clips come out of each kind of file as they went in; bad files say one line."""

import numpy as np
from PIL import Image
import pytest

import clip_files
from lamd_jax import media
from lamd_jax.errors import DataError
from lamd_jax.evaluation import clip_sources


def _read(source, frames=4, stride=1, **keywords):
  where, _ = clip_sources.places(source, frames, stride, "first", 0, 0)
  found = clip_sources.clips(source, where, frames, stride, keywords.get("pixels", 0))
  return np.stack(list(found))


@pytest.fixture(scope="module")
def clips():
  return clip_files.waves(3, frames=10)


@pytest.fixture
def images(clips, tmp_path):
  for i, clip in enumerate(clips):
    for t, frame in enumerate(clip):
      folder = tmp_path / "images" / f"clip{i}"
      folder.mkdir(parents=True, exist_ok=True)
      Image.fromarray(frame).save(folder / f"{t}.png")
  return tmp_path / "images"


def test_png_and_npz_are_exact(clips, images, tmp_path):
  np.savez(tmp_path / "stored.npz", clips)
  np.savez_compressed(tmp_path / "packed.npz", clips)
  for path in (images, tmp_path / "stored.npz", tmp_path / "packed.npz"):
    source = clip_sources.open_source(path)
    np.testing.assert_array_equal(_read(source), clips[:, :4])
    np.testing.assert_array_equal(_read(source, 5, 2), clips[:, ::2])
  assert source.kind == "npz" and source.names[2] == "packed.npz[2]"


def test_a_stored_npz_is_mapped_and_not_read(clips, tmp_path):
  np.savez(tmp_path / "a.npz", clips)
  assert isinstance(clip_sources.npz_member(tmp_path / "a.npz"), np.memmap)


def test_videos_are_read_and_close(clips, tmp_path):
  for i, clip in enumerate(clips):
    media.write_mp4(tmp_path / f"{i}.mp4", clip, 8)
  found = _read(clip_sources.open_source(tmp_path))
  assert found.shape == (3, 4, 32, 32, 3)
  assert np.abs(found.astype(int) - clips[:, :4]).mean() < 12  # 4:2:0 colours


def test_a_folder_may_be_named_from_below_or_be_hidden(clips, tmp_path, monkeypatch):
  hidden, deep = tmp_path / ".cache" / "a", tmp_path / "b" / "c"
  for folder in (hidden, deep, hidden / ".trash"):
    folder.mkdir(parents=True)
  for folder in (hidden, hidden / ".trash"):
    np.savez(folder / "x.npz", clips)
  monkeypatch.chdir(deep)
  for path in (hidden, "../../.cache/a"):
    assert len(clip_sources.open_source(path).names) == len(clips)


def test_digest_follows_the_bytes(clips, tmp_path):
  np.savez(tmp_path / "a.npz", clips)
  before = clip_sources.open_source(tmp_path).digest()
  assert before == clip_sources.open_source(tmp_path).digest()
  np.savez(tmp_path / "a.npz", clips[::-1])
  assert before != clip_sources.open_source(tmp_path).digest()


def test_random_places(clips, tmp_path):
  np.savez(tmp_path / "a.npz", clips)
  source = clip_sources.open_source(tmp_path)
  draw = lambda seed, limit: clip_sources.places(source, 4, 2, "random", limit, seed)
  found, fresh = draw(0, 8)
  # 10 frames hold clips of span 7 at 4 offsets; each video comes once before any twice.
  assert len(set(found)) == 8 and fresh == 3
  assert sorted(p.video for p in found[:3]) == [0, 1, 2]
  assert all(0 <= p.start <= 3 for p in found)
  assert draw(0, 8) == draw(0, 8) != draw(1, 8)
  assert len(draw(0, 99)[0]) == 12  # all there are


def test_bad_clips_say_one_line(clips, images, tmp_path):
  nan = clips.astype(np.float32)
  nan[1, 2] = np.nan
  cases = {
    "empty": (None, "holds no video"),
    "nan": (nan, "clip 1 holds NaN or infinity"),
    "float": (clips / 255, "float64 .*uint8 .* is due"),
    "pickle": (np.array([{}], object), "Python objects"),
    "none": (clips[:0], "holds no clip"),
  }
  for name, (array, message) in cases.items():
    (tmp_path / name).mkdir()
    if array is not None:
      np.savez(tmp_path / name / "a.npz", array)
    with pytest.raises(DataError, match=message) as error:
      clip_sources.open_source(tmp_path / name)
    assert "\n" not in str(error.value)
  whole = tmp_path / "float" / "a.npz"
  whole.write_bytes(whole.read_bytes()[:-200])
  with pytest.raises(DataError, match="truncated"):
    clip_sources.open_source(whole)
  (images / "x.mp4").write_bytes(b"no video")
  with pytest.raises(DataError, match="videos and image folders"):
    clip_sources.open_source(images)


def test_sizes_and_lengths_are_checked(images, tmp_path):
  source = clip_sources.open_source(images)
  with pytest.raises(DataError, match="3 videos has the 16 frames .* longest has 10"):
    _read(source, 16)
  with pytest.raises(DataError, match="clip0 is 32x32; the protocol takes 64x64"):
    _read(source, pixels=64)
  Image.new("RGB", (8, 6)).save(images / "clip1" / "1.png")
  with pytest.raises(DataError, match="clip1 cannot be read .*frames differ in size"):
    _read(source)
  for t in range(10):
    Image.new("RGB", (8, 6)).save(images / "clip1" / f"{t}.png")
  with pytest.raises(DataError, match="clip1 is 8x6, clip0 is 32x32"):
    _read(source)
  (tmp_path / "v").mkdir()
  (tmp_path / "v" / "x.mp4").write_bytes(b"no video")
  with pytest.raises(DataError, match="x.mp4 cannot be read"):
    _read(clip_sources.open_source(tmp_path / "v"))
