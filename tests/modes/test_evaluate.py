# SPDX-License-Identifier: Apache-2.0
"""What --mode=evaluate says of clips on the captioned world, true clips for made ones."""

import types

import numpy as np
import pytest
import tiny

from lamd_jax import config as config_lib
from lamd_jax.data import pipeline
from lamd_jax.evaluation import clip_report
from lamd_jax.modes import evaluate


def test_true_clips_are_reported_as_ceiling_and_still_ones_as_floor():
  config = tiny.lamd_config(data__size=64, data__frames=16, data__tokens=32)
  settings = config_lib.eval_defaults()
  settings.update(clips=8, bootstrap=50)
  real = pipeline.clips(config.data, "test", 16, config.seed)[::2]
  clips = {"real": real, "reconstructed": real, "generated": real,
           "repeated first frame": clip_report.repeat_first_frame(real)}  # fmt: skip
  seen = evaluate._tracks(config, clips)
  found = evaluate._caption_following(config, settings, seen)
  for part in ("action", "referring"):
    ceiling = found["generated"]["precision"]["mage"]["matched"][part]
    floor = found["repeated first frame"]["precision"]["mage"]["matched"][part]
    assert ceiling["mean"] == 1 and floor["mean"] == 0  # nothing moves, nothing is said
  table = evaluate._caption_table(found)
  assert len(table.rows) == 8 and {len(row) for row in table.rows} == {6}
  assert table.rows[4][0] == "generated, matched" and table.rows[4][4].startswith("1.000")

  # Clip by clip, for the gallery: the same numbers, whose means are the table's.
  columns = evaluate._columns(clips, seen, evaluate._texts(config, settings), True)
  scores = {column.title: column.scores for column in columns}
  following = "caption following, 0 to 1"
  for name in ("generated", "repeated first frame"):
    mean = found[name]["matched"]["combined"]["mean"]
    assert np.mean(scores[name][following]) == pytest.approx(mean)
  assert list(scores["reconstructed"]["PSNR against the real clip, dB"]) == [100] * 8  # equal clips
  assert list(scores["generated"]["PSNR of the first frame, dB"]) == [100] * 8
  steps = np.abs(np.diff(real[3].astype(np.float32), axis=0)).mean()
  assert scores["real"]["frame difference, grey levels"][3] == pytest.approx(steps)


def test_clips_of_which_little_is_known_have_few_scores():
  clips = {name: np.zeros((2, 3, 16, 16, 3), np.uint8)
           for name in ("real", "reconstructed", "generated")}  # fmt: skip
  columns = evaluate._columns(clips, {}, [], False)
  moves = "frame difference, grey levels"
  assert [set(column.scores) for column in columns] == [
    {moves}, {moves, "PSNR against the real clip, dB"}, {moves}
  ]  # fmt: skip
  # The page's top speaks of the columns that are there, and of no other.
  about = evaluate._about(clips)
  assert "generated:" in about and "all 2 clips" in about and "next clip" not in about


def test_first_frames_are_held_against_their_images_and_against_others():
  generator = np.random.default_rng(0)
  clips = generator.integers(0, 256, (6, 3, 16, 16, 3), np.uint8)
  close = np.clip(clips.astype(int) + 1, 0, 255).astype(np.uint8)
  found = clip_report.first_frames(
    clips[:, :1], {"kept": clips, "close": close}, resamples=50, seed=0
  )
  assert found["kept"]["psnr"]["mean"] == 100 and found["kept"]["ssim"]["mean"] == 1
  assert 48 < found["close"]["psnr"]["mean"] < 49  # 20 log10(255) = 48.13, less clipped
  other = found["another image"]
  assert other["psnr"]["mean"] < 9 and abs(other["ssim"]["mean"]) < 0.1
  table = evaluate._first_frame_table(found)
  assert [row[0] for row in table.rows] == ["kept", "close", "another image"]


def test_a_model_without_classes_is_told_none_whatever_the_data_say(monkeypatch):
  config, asked = tiny.config(), []
  clips = lambda data, split, count, seed: np.zeros((count, 4, 16, 16, 3), np.uint8)
  monkeypatch.setattr(evaluate.pipeline, "clips", clips)
  monkeypatch.setattr(evaluate.pipeline, "labels", lambda *_: np.arange(16))

  def generate(n, **knobs):
    asked.append(knobs["label"])
    raise KeyboardInterrupt

  model = types.SimpleNamespace(
    system=types.SimpleNamespace(animates_images=True), generate=generate
  )
  settings = config_lib.eval_defaults()
  settings.clips = 8
  for classes, label in ((0, -1), (16, list(range(0, 16, 2)))):
    config.model.motion.num_classes = classes
    with pytest.raises(KeyboardInterrupt):
      evaluate._clips(model, config, settings)
    assert asked.pop() == label
