# SPDX-License-Identifier: Apache-2.0
"""Laws of the four changes, against Pillow and colorsys; who gets which, who none."""

import colorsys

import numpy as np
from PIL import Image, ImageEnhance
import pytest

from lamd_jax import config as config_lib
from lamd_jax import limits
from lamd_jax import validation
from lamd_jax.data import color_jitter, pipeline, prepared, transforms
from lamd_jax.data.color_jitter import Change
from lamd_jax.data.sources import array_record
from lamd_jax.errors import ConfigError

_NOTHING = Change(1, 1, 1, 0)


def _noise(*shape, low=0, high=256):
  return np.random.default_rng(len(shape)).integers(low, high, shape, dtype=np.uint8)


def _apply(video, **change):
  inside = np.ones(video.shape[1:3], bool)
  return color_jitter.apply(video, _NOTHING._replace(**change), inside)


@pytest.fixture(scope="module")
def every():
  """All sorts of bytes: each sixteenth level a channel, greys and primaries too."""
  levels = np.minimum(np.arange(0, 257, 16), 255).astype(np.uint8)
  return np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, 17, -1, 3)


def test_nothing_is_the_identity_bit_for_bit(every):
  assert np.array_equal(_apply(every), every)
  assert color_jitter.draw((0, 0, 0, 0), 3, 5) == _NOTHING


@pytest.mark.parametrize("factor", [0.0, 0.75, 1.25, 2.0])
def test_brightness_is_a_factor(every, factor):
  # Halves go up, as in int(x + 0.5).
  expected = np.clip(np.floor(every * factor + 0.5), 0, 255)
  assert np.array_equal(_apply(every, brightness=factor), expected)


@pytest.mark.parametrize("factor", [0.75, 1.25])
@pytest.mark.parametrize(
  "name, enhance",
  [
    ("brightness", ImageEnhance.Brightness),
    ("contrast", ImageEnhance.Contrast),
    ("saturation", ImageEnhance.Color),
  ],
)
def test_a_picture_changes_as_pillow_changes_it(name, enhance, factor):
  """Pillow rounds greys and their mean to bytes, and truncates: a level or two."""
  frame = _noise(24, 32, 3)
  theirs = np.asarray(enhance(Image.fromarray(frame)).enhance(factor)).astype(int)
  ours = _apply(frame[None], **{name: factor})[0].astype(int)
  assert np.abs(ours - theirs).max() <= 2 and np.abs(ours - frame).max() > 10


@pytest.mark.parametrize("turns", [-0.5, -0.15, -0.04, 0.04, 0.3, 0.5])
def test_hue_turns_as_in_colorsys(every, turns):
  ours = _apply(every, hue=turns).reshape(-1, 3)
  for pixel, got in zip(every.reshape(-1, 3)[::7], ours[::7]):
    hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
    expected = np.array(colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)) * 255
    assert np.abs(got - expected).max() <= 0.51, pixel  # half a level: one rounding


def test_hue_has_the_period_of_a_turn_and_goes_round(every):
  assert np.array_equal(_apply(every, hue=1.0), every)
  assert np.array_equal(_apply(every, hue=-0.3), _apply(every, hue=0.7))
  thirds = _apply(_apply(_apply(every, hue=1 / 3), hue=1 / 3), hue=1 / 3)
  assert np.array_equal(thirds, every)
  assert np.array_equal(_apply(every, hue=1 / 3), np.roll(every, 1, -1))  # red to green
  back = _apply(_apply(every, hue=0.15), hue=-0.15).astype(int)
  # Where chroma is c a level is 1/(6c) of a turn: bytes hold the hue to about a level.
  assert np.abs(back - every).max() <= 2


def test_saturation_and_hue_leave_grey_alone():
  grey = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 16, 16, 3)
  for change in (dict(saturation=0.0), dict(saturation=1.7), dict(hue=0.3)):
    assert np.array_equal(_apply(grey, **change), grey)
  inside = np.ones((16, 16), bool)
  all_four = color_jitter.apply(grey, Change(1.2, 0.8, 1.25, 0.1), inside)
  assert (all_four == all_four[..., :1]).all() and not np.array_equal(all_four, grey)


def test_contrast_holds_the_mean_of_the_clip():
  video = _noise(4, 8, 8, 3, low=60, high=190)
  video[2] //= 2  # a dark frame: one centre for all, so the frames stay apart
  luma = np.array((0.299, 0.587, 0.114))
  mean = (video @ luma).mean()
  for factor in (0.5, 1.25):
    out = _apply(video, contrast=factor)
    assert abs((out @ luma).mean() - mean) < 0.5  # of rounding, halves going up
    expected = np.clip(mean + factor * (video - mean), 0, 255)
    assert np.abs(out - expected).max() <= 0.51


def test_what_stands_still_stays_still():
  """A pixel's new colour depends on its own and on the draw, not on its frame."""
  video = _noise(5, 8, 8, 3)
  video[:, :4] = video[:1, :4]
  video[3:, 4:] = 255  # something bright comes in below
  out = color_jitter.apply(video, Change(1.2, 0.8, 1.2, 0.04), np.ones((8, 8), bool))
  assert (out[:, :4] == out[:1, :4]).all() and not np.array_equal(out, video)
  order = [4, 1, 0, 3, 2]
  again = color_jitter.apply(
    video[order], Change(1.2, 0.8, 1.2, 0.04), np.ones((8, 8), bool)
  )
  assert np.array_equal(again, out[order])


def test_lights_lost_on_the_way_come_back():
  """250 x 1.25 is no byte, but 0.8 of it is 250 again: clipped once, at the end."""
  video = np.full((1, 2, 2, 3), 250, np.uint8)
  video[0, 0] = 0  # mean grey 125, 156.25 once brightened
  out = _apply(video, brightness=1.25, contrast=0.5)
  # 156.25 + 0.5 x (312.5 - 156.25) = 234.4, and half of 156.25 for black
  assert out[0, 1].tolist() == [[234] * 3] * 2 and out[0, 0].tolist() == [[78] * 3] * 2


def test_output_is_bytes_whatever_the_change(every):
  before = every.copy()
  for change in (Change(2, 2, 2, 0.5), Change(0, 0, 0, -0.5), Change(2, 0, 2, 0.1)):
    out = color_jitter.apply(every, change, np.ones((17, every.shape[2]), bool))
    assert out.dtype == np.uint8 and out.shape == every.shape
  # Dark and light ends are cut off, they do not wrap around.
  assert _apply(every, contrast=2.0)[every == 255].min() == 255
  assert _apply(every, contrast=2.0)[every == 0].max() == 0
  assert np.array_equal(every, before)


def test_draws_follow_seed_and_place_and_fill_their_range():
  strengths = (0.25, 0.3, 0.1, 0.04)
  draws = [color_jitter.draw(strengths, 7, position) for position in range(400)]
  assert draws[9] == color_jitter.draw(strengths, 7, 9)
  assert draws[9] != color_jitter.draw(strengths, 8, 9)
  shifts = (np.array(draws) - _NOTHING) / strengths
  assert -1 <= shifts.min() < -0.97 and 0.97 < shifts.max() <= 1
  # Uniform in [-1,1]: mean 0 with 0.58/20 of error, variance 1/3; four of them, apart.
  assert np.abs(shifts.mean(0)).max() < 0.12
  assert np.abs(shifts.var(0) - 1 / 3).max() < 0.06
  assert np.abs(np.corrcoef(shifts.T) - np.eye(4)).max() < 0.2


def test_bars_stay_black_and_do_not_count():
  inside = transforms.picture(240, 320, 16, "natops")
  assert inside.any(1).sum() == 14 and inside.all(1).sum() == 14  # 16 x 229 / 260
  assert transforms.picture(30, 50, 16, "crop").all()
  assert transforms.picture(16, 16, 16, "letterbox").all()  # nothing to resize
  video = np.where(inside[..., None], _noise(2, 16, 16, 3), 0).astype(np.uint8)
  change = Change(1.1, 0.75, 1.2, 0.04)
  out = color_jitter.apply(video, change, inside)
  assert not out[:, ~inside].any()
  rows = inside.any(1)
  alone = color_jitter.apply(video[:, rows], change, np.ones((14, 16), bool))
  assert np.array_equal(out[:, rows], alone)


@pytest.fixture
def clips_config(tmp_path, data_config):
  """Six videos whose frames and sides differ, so that window and flip can be told."""
  records = []
  for i in range(6):
    video = np.full((9, 16, 16, 3), 100, np.uint8)
    video[..., 0] += 5 * np.arange(9, dtype=np.uint8)[:, None, None]
    video[:, :, 8:, 1] = 150
    video[..., 2] = 20 * i
    records.append(array_record.Record(f"v{i}", video, i))
  for split in ("train", "test"):
    array_record.write(tmp_path / "data", split, records, fps=8, shards=1)
  data_config.update(source="array_record", flip=True)
  return data_config


def _clips(config, count, **options):
  with pipeline.loader(config, split="train", batch=2, seed=5, **options) as loader:
    made = [next(loader) for _ in range(count)]
  return {int(i): video for batch in made for i, video in zip(batch.index, batch.video)}


def test_training_clips_alone_are_changed_each_by_its_place(clips_config):
  plain = _clips(clips_config, 6)
  before = pipeline.clips(clips_config, "test", 3, 0)
  strengths = (0.25, 0.25, 0.25, 0.04)
  clips_config.color_jitter = strengths
  changed = _clips(clips_config, 6)
  # Windows and flips are the ones without jitter; the place gives the colours.
  inside = np.ones((16, 16), bool)
  for position, video in plain.items():
    change = color_jitter.draw(strengths, 5, position)
    expected = color_jitter.apply(video, change, inside)
    assert np.array_equal(changed[position], expected)
    assert not np.array_equal(expected, video)
  on_two = [_clips(clips_config, 3, process_index=h, process_count=2) for h in (0, 1)]
  later = _clips(clips_config, 3, start=6)
  for part in (*on_two, later):
    assert part and all(np.array_equal(v, changed[i]) for i, v in part.items())
  assert np.array_equal(pipeline.clips(clips_config, "test", 3, 0), before)


def test_caches_are_named_by_it_and_hold_one_draw_a_window(clips_config):
  clips_config.sampling, clips_config.flip = "first", False
  plain = pipeline.fingerprint(clips_config, "train")
  clips_config.color_jitter = (0.1, 0.0, 0.0, 0.0)
  assert pipeline.fingerprint(clips_config, "train") != plain
  first, second = (
    next(pipeline.in_order(clips_config, "train", 6, 5, n, f)).video
    for n, f in ((1, 0), (2, 6))
  )
  assert len(first) == len(second) == 6
  assert not any(np.array_equal(a, b) for a, b in zip(first, second))
  assert "color_jitter" not in prepared.settings(clips_config)  # clips are cut plain


def test_depth_is_left_alone():
  config = config_lib.defaults().data
  config.update(source="procedural", world="pushing", world_mode="push", depth="world",
                frames=3, size=32, num_videos=2, num_threads=0)  # fmt: skip
  (plain,) = pipeline.in_order(config, "train", 2, 0, 1, 0)
  config.color_jitter = (0.3, 0.3, 0.3, 0.15)
  (changed,) = pipeline.in_order(config, "train", 2, 0, 1, 0)
  assert np.array_equal(plain.depth, changed.depth)
  assert not np.array_equal(plain.video, changed.video)


@pytest.mark.parametrize(
  "data, strengths, words",
  [
    ({}, (0.1, 0.1, 0.1), "needs four numbers: brightness, contrast, saturation, hue"),
    ({}, (0.1, 0.1, 0.1, 0.6), "hue, the last, is at most 0.5"),
    ({"source": "cater_gen"}, (0.1, 0.1, 0.1, 0.1), "captions of cater name colours"),
    (
      {"source": "procedural", "world": "cater", "world_mode": "v1"},
      (0.0, 0.0, 0.0, 0.01), "set the last to 0",
    ),
  ],
)  # fmt: skip
def test_strengths_that_make_no_sense(data, strengths, words):
  config = config_lib.defaults()
  config.data.update(data)
  config.data.color_jitter = (0.1, 0.1, 0.1, 0.0)
  validation._check_world(config)
  config.data.color_jitter = strengths
  with pytest.raises(ConfigError, match=words):
    validation._check_world(config)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_strengths_lie_between_0_and_1(value):
  with pytest.raises(ConfigError, match="must lie between 0 and 1"):
    limits.check_leaf("config", "data.color_jitter", (0.0, value, 0.0, 0.0))
