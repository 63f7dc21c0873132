# SPDX-License-Identifier: Apache-2.0
"""Depth of clips: the same pixels as the frames, from worlds and from files."""

import hashlib
import shutil

import numpy as np
from PIL import Image
import pytest

from lamd_jax import config as config_lib
from lamd_jax.config import ConfigError
from lamd_jax.data import pipeline
from lamd_jax.data import procedural
from lamd_jax.data import transforms
from lamd_jax.data.procedural.cater import Cater
from lamd_jax.data.sources import array_record
from lamd_jax.data.sources.procedural import WorldVideos
from lamd_jax.errors import DataError

SIZES = [(36, 64), (64, 36), (20, 33), (16, 16)]


@pytest.mark.parametrize("how", ["crop", "crop_antialias", "squash", "letterbox"])
@pytest.mark.parametrize("shape", SIZES)
def test_depth_is_resized_as_the_frames_are(shape, how):
  """A grey picture as frames and as depth: equal to half a level of rounding."""
  grey = np.random.default_rng(0).integers(1, 256, (2, *shape)).astype(np.uint8)
  frames = transforms.resize(np.repeat(grey[..., None], 3, -1), 16, how)
  depth = transforms.resize(grey.astype(np.float32), 16, how)
  assert depth.shape == (2, 16, 16) and depth.dtype == np.float32
  # Pillow rounds between its two passes where pixels are bytes.
  near = np.abs(np.nan_to_num(depth, nan=0.0) - frames[..., 1]).max()
  assert near <= (1.01 if how in ("crop_antialias", "letterbox") else 0.501)
  bars = np.isnan(depth).any()
  assert bars == (how == "letterbox" and shape[0] != shape[1])


def test_depth_is_normalised_by_the_percentiles_of_the_clip():
  draw = np.random.default_rng(1)
  inverse = draw.normal(size=(3, 16, 16)).astype(np.float32)
  inverse[0, 0, 0], inverse[2, 5, 5] = 1e4, np.nan
  low, high = np.nanpercentile(inverse, (1, 99))
  expected = np.clip((inverse - low) / (high - low), 0, 1) * 255
  got = transforms.normalise_depth(inverse)
  assert got.shape == (3, 16, 16, 1) and got.dtype == np.uint8
  assert got[0, 0, 0] == 255 and got[2, 5, 5] == 0  # near is bright, unknown is far
  assert np.nanmax(np.abs(got[..., 0] - expected)) <= 0.5 + 1e-3
  # Inverse relative depth is free up to scale and shift.
  assert np.abs(transforms.normalise_depth(3 * inverse - 7).astype(int) - got).max() <= 1


@pytest.mark.parametrize("value", [0.0, 0.3, -5.0, np.nan])
def test_constant_depth_is_zero(value):
  constant = np.full((2, 20, 33), value, np.float32)
  assert (transforms.normalise_depth(constant) == 0).all()
  resized = transforms.resize(constant, 16, "crop_antialias")
  assert (transforms.normalise_depth(resized) == 0).all()


def _world_config(**changes):
  config = config_lib.defaults().data
  config.update(
    source="procedural", world="cater", world_mode="v1", num_videos=6, frames=5, size=16,
    num_threads=2,
  )  # fmt: skip
  with config.unlocked():
    config.depth, config.depth_root = "world", ""
    config.update(changes)
  return config


@pytest.mark.parametrize(
  ("world", "mode"), [("cater", "v2"), ("sky", "drift"), ("pushing", "push")]
)
def test_worlds_give_their_true_depth(world, mode):
  config = _world_config(world=world, world_mode=mode)
  video = pipeline.clips(config, "test", 2, 0)
  depth = pipeline.depths(config, "test", 2, 0)
  instance = pipeline.instances(config, "test", 2, 0)
  assert depth.shape == instance.shape == (2, 5, 16, 16, 1) and depth.dtype == np.uint8
  for i in range(2):
    truth = procedural.world(world, mode).sample("test", i, 5, 16)
    assert np.array_equal(video[i], truth.video)
    assert np.array_equal(instance[i], truth.instance)
    inverse = 1 / truth.depth[..., 0].astype(float)
    low, high = np.percentile(inverse, (1, 99))
    expected = np.clip((inverse - low) / (high - low), 0, 1) * 255
    assert np.abs(depth[i, ..., 0] - expected).max() <= 0.51


@pytest.mark.parametrize("sampling", ["random", "very_random"])
def test_depth_and_objects_are_of_the_clips_own_frames(sampling):
  """Training videos of `pushing` have 30 frames, so clips of 5 lie anywhere in them."""
  config = _world_config(world="pushing", world_mode="push", sampling=sampling)
  arguments = (config, "train", 6, 4)
  video, depth, instance = (
    read(*arguments) for read in (pipeline.clips, pipeline.depths, pipeline.instances)
  )
  starts = set()
  for i in range(6):
    whole = procedural.world("pushing", "push").sample("train", i, 30, 16)
    at = [int((whole.video == frame).all((1, 2, 3)).argmax()) for frame in video[i]]
    assert np.array_equal(whole.video[at], video[i])
    assert np.array_equal(instance[i], whole.instance[at])
    true = transforms.normalise_depth(1 / whole.depth[at, ..., 0])
    assert np.array_equal(depth[i], true)
    starts.add(at[1])
  assert len(starts) > 2


def test_batches_carry_depth_of_the_same_frames():
  """Of a world whose videos are longer than a clip, with flips: windows must agree."""
  config = _world_config(world="pushing", world_mode="push", flip=True)
  flipped = 0
  world = procedural.world("pushing", "push")
  wholes = [world.sample("train", index, 30, 16) for index in range(6)]
  with pipeline.loader(config, split="train", batch=6, seed=3) as loader:
    batches = [next(loader) for _ in range(2)]
  for video, depth in ((v, d) for b in batches for v, d in zip(b.video, b.depth)):
    assert depth.shape == (5, 16, 16, 1) and depth.dtype == np.uint8
    assert depth.flags.c_contiguous
    found = False
    for whole in wholes:
      for way in (1, -1):
        for start in range(26):
          window = slice(start, start + 5)
          if np.array_equal(whole.video[window, :, ::way], video):
            true = transforms.normalise_depth(1 / whole.depth[window, :, ::way, 0])
            assert np.array_equal(true, depth)
            found, flipped = True, flipped + (way < 0)
    assert found
  assert 0 < flipped


def test_one_rendering_gives_frames_and_depth(monkeypatch):
  rendered = []
  real = Cater.sample

  def sample(self, split, index, *args, **kwargs):
    rendered.append(index)
    return real(self, split, index, *args, **kwargs)

  monkeypatch.setattr(Cater, "sample", sample)
  config = _world_config(num_threads=0)
  (batch, *_) = pipeline.in_order(config, "train", 6, 0, 1, 0)
  assert sorted(rendered) == list(range(6)) and batch.depth is not None


def test_depth_none_changes_nothing():
  config = _world_config(depth="none")
  without = config_lib.defaults().data
  without.update({k: v for k, v in config.items() if k not in ("depth", "depth_root")})
  assert pipeline.fingerprint(config, "train") == pipeline.fingerprint(without, "train")
  (batch,) = pipeline.in_order(without, "train", 6, 0, 1, 0)
  assert batch.depth is None
  with pytest.raises(ConfigError, match="clips have no depth"):
    pipeline.depths(without, "test", 2, 0)
  config.depth = "world"
  assert pipeline.fingerprint(config, "train") != pipeline.fingerprint(without, "train")
  (same,) = pipeline.in_order(config, "train", 6, 0, 1, 0)
  assert np.array_equal(batch.video, same.video)


def test_appearance_captions_come_through_the_pipeline():
  config = _world_config(tokenizer="words", tokens=16)
  plain = pipeline.fingerprint(config, "train")
  config.captions = "appearance"
  assert pipeline.fingerprint(config, "train") != plain
  world = Cater("v1")
  texts = pipeline.captions(config, "test", 3, 0)
  assert texts == [world.appearance("test", i) for i in range(3)]
  (batch,) = pipeline.in_order(config, "train", 6, 0, 1, 0)
  assert len({row.tobytes() for row in batch.tokens}) > 3
  config.update(world="sky", world_mode="drift")
  with pytest.raises(ConfigError, match="only cater has these"):
    pipeline.captions(config, "test", 1, 0)
  explicit = WorldVideos("cater", "v1", "train", 4, 8, False)
  # The digest of stored runs, of the words it has always been made of.
  known = hashlib.sha256(b"cater v1 train 4 8 1").hexdigest()
  assert explicit.digest() == known


# Files.


def _ramp(n, height=24, width=32):
  """Depth whose frame t is t levels brighter than a ramp from left to right."""
  ramp = np.arange(width) * 5
  return (ramp + np.arange(n)[:, None, None] + np.zeros((1, height, 1))).astype(np.uint8)


def _save(folder, frames):
  folder.mkdir(parents=True)
  for t, frame in enumerate(frames):
    Image.fromarray(frame).save(folder / f"{t}.png")


@pytest.fixture
def files_config(tmp_path, make, data_config):
  """Videos a and b for training, c for the test; depth as 16 bits, 8 bits, a video."""
  for split, name in (("train", "a"), ("train", "b.x"), ("test", "c")):
    make.video(tmp_path / "data" / split / f"{name}.mkv", 9)
  depth = tmp_path / "depth"
  _save(depth / "train" / "a", _ramp(9).astype(np.uint16) * 200 + 7)
  _save(depth / "train" / "b.x", _ramp(9))
  make.video(depth / "test" / "c.mp4", 9, height=48, width=64)
  data_config.update(source="folder", flip=True)
  with data_config.unlocked():
    data_config.depth, data_config.depth_root = "files", str(depth)
  return data_config


def _expected(start, flip):
  """The ramp through the frames' own crop and the formula of the percentiles."""
  frames = np.repeat(_ramp(9)[start : start + 4, ..., None], 3, -1)
  grey = transforms.resize(frames, 16, "crop")[..., 0].astype(float)
  low, high = np.percentile(grey, (1, 99))
  levels = np.clip((grey - low) / (high - low), 0, 1) * 255
  return levels[:, :, ::-1] if flip else levels


def test_depth_files_follow_window_crop_and_flip(files_config, make):
  config = files_config
  config.resize = "crop"
  flips = starts = 0
  with pipeline.loader(config, split="train", batch=2, seed=1) as loader:
    for _ in range(8):
      batch = next(loader)
      for video, depth in zip(batch.video, batch.depth):
        start = int(make.numbers(video)[0])
        flip = depth[0, 8, 0, 0] > depth[0, 8, -1, 0]
        # Frames were rounded to bytes before the crop of `_expected`, 3 levels of 80.
        assert np.abs(depth[..., 0] - _expected(start, flip)).max() <= 3
        flips, starts = flips + flip, starts + start
  assert 0 < flips < 16 and starts > 0


def test_a_depth_video_of_another_size(files_config):
  depth = pipeline.depths(files_config, "test", 1, 0)
  assert depth.shape == (1, 4, 16, 16, 1)
  means = depth.mean((2, 3, 4))[0]
  assert (np.diff(means) > 0).all() and means[0] < 10 and means[-1] > 245


def test_the_fingerprint_follows_the_bytes_of_depth(files_config, tmp_path):
  first = pipeline.fingerprint(files_config, "train")
  assert first == pipeline.fingerprint(files_config, "train")
  picture = tmp_path / "depth" / "train" / "a" / "0.png"
  Image.fromarray(np.zeros((24, 32), np.uint8)).save(picture)
  (picture.parent / "9.png").write_bytes(b"")  # the folder's time of change moves
  (picture.parent / "9.png").unlink()
  assert pipeline.fingerprint(files_config, "train") != first


def test_depth_that_does_not_fit_is_named(files_config, tmp_path):
  folder = tmp_path / "depth" / "train" / "a"

  def check(message, call=lambda: pipeline.check(files_config, "train")):
    with pytest.raises(DataError, match=message) as error:
      call()
    assert "\n" not in str(error.value) and "data.depth_root=" in str(error.value)

  (folder / "4.png").unlink()
  check("depth/train/a: 8 frames, its video 9")
  (folder / "4.png").write_text("no image")
  check("depth/train/a: .*4.png")
  shutil.rmtree(folder)
  _save(folder, np.zeros((9, 24, 24), np.uint8))
  check("depth/train/a: 24x24, its video 32x24, which is another shape")
  shutil.rmtree(folder)
  message = "train/a.mkv has no .*depth/train/a.mp4"
  check(message)
  check(message, lambda: pipeline.loader(files_config, split="train", batch=1, seed=0))


def test_coloured_depth_images_are_named(files_config, tmp_path):
  for folder in ("a", "b.x"):
    for file in (tmp_path / "depth" / "train" / folder).iterdir():
      Image.open(file).convert("RGB").save(file)
  with pytest.raises(DataError, match="is RGB, not grey of 8 or 16 bits"):
    pipeline.depths(files_config, "train", 2, 0)


def test_depth_that_cannot_be_had(files_config, tmp_path):
  files_config.depth_root = ""
  with pytest.raises(ConfigError, match="data.depth_root=DIR"):
    pipeline.check(files_config, "train")
  files_config.depth_root = str(tmp_path / "none")
  with pytest.raises(DataError, match="no such folder"):
    pipeline.check(files_config, "train")
  files_config.depth = "world"
  with pytest.raises(ConfigError, match="data.source=folder does not know it"):
    pipeline.check(files_config, "train")
  with pytest.raises(ConfigError, match="knows no objects"):
    pipeline.instances(files_config, "train", 1, 0)
  record = array_record.Record("v", np.zeros((6, 16, 16, 3), np.uint8), 0)
  array_record.write(tmp_path / "records", "train", [record], fps=8, shards=1)
  files_config.update(source="array_record", root=str(tmp_path / "records"))
  files_config.depth = "files"
  with pytest.raises(ConfigError, match="data.source=array_record has no files"):
    pipeline.check(files_config, "train")
