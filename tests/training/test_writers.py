# SPDX-License-Identifier: Apache-2.0
"""Records, previews and the progress line."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import toy_stage

from lamd_jax import media
from lamd_jax.training import console
from lamd_jax.training import writers


def _clips(count=2, time=3, size=8):
  random = np.random.default_rng(0)
  return random.integers(0, 256, (count, time, size, size, 3), np.uint8)


def _rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_are_lines_and_a_resume_drops_later_ones(tmp_path):
  path = tmp_path / "metrics.jsonl"
  first = writers.JsonlWriter(path)
  for step in (10, 20, 30):
    first.write_scalars(step, {"loss/a": step / 10, "bad": math.nan})
  path.write_text(path.read_text() + '{"step": 40, "lo')  # killed while writing
  second = writers.JsonlWriter(path)
  second.rewind(20)
  second.write_scalars(30, {"loss/a": 3.5, "bad": 1.0})
  second.close()
  rows = _rows(path)
  assert [row["step"] for row in rows] == [10, 20, 30]
  assert [row["loss/a"] for row in rows] == [1.0, 2.0, 3.5]
  assert [row["bad"] for row in rows] == [None, None, 1.0]
  assert all(row["seconds"] >= 0 for row in rows)


def test_in_a_bucket_records_are_stored_with_every_checkpoint(tmp_path, monkeypatch):
  path = tmp_path / "metrics.jsonl"
  records = writers.JsonlWriter(path)
  monkeypatch.setattr(records, "_remote", True)
  writer = writers.MultiWriter([records])
  writer.write_scalars(1, {"loss": 1.0})
  assert not path.exists()
  writer.keep()
  writer.write_scalars(2, {"loss": 1.0})
  assert [row["step"] for row in _rows(path)] == [1]  # what a killed run leaves


def test_previews_hold_rows_of_samples_and_columns_of_names(tmp_path):
  videos = {"input": _clips(), "output": _clips() // 2}
  writers.SampleWriter(tmp_path, fps=5.0).write_videos(120, videos)
  folder = tmp_path / "samples" / "step_120"
  frames, fps = media.read_video(folder / "input.mp4")
  assert frames.shape[0] == 3
  assert abs(fps - 5.0) < 1e-6
  meta = json.loads((folder / "meta.json").read_text())
  assert meta["step"] == 120
  assert meta["columns"] == ["input", "output"]
  sheet = writers.side_by_side(videos)
  # Tiles of 8 pixels with one between: row 1, column 0 starts at (9, 0).
  np.testing.assert_array_equal(sheet[:, 9:17, 0:8], videos["input"][1])
  np.testing.assert_array_equal(sheet[:, 0:8, 9:17], videos["output"][0])


def test_clips_of_another_shape_stay_out_of_the_grid():
  videos = {"a": _clips(), "b": _clips(time=5)}
  assert writers.side_by_side(videos).shape == (3, 17, 8, 3)


def test_writers_of_a_stage_write_all_they_should(tmp_path):
  train = toy_stage.config().train
  writer = writers.for_stage(train, "toy", tmp_path, steps=4, fps=8.0)
  writer.rewind(0)
  writer.write_hparams({"seed": 0})
  writer.write_scalars(2, {"loss/a": 1.0})
  writer.write_videos(2, {"clip": _clips()})
  writer.close()
  names = {p.name for p in tmp_path.iterdir()}
  assert names == {"metrics.jsonl", "samples", "tensorboard"}
  train.tensorboard = False
  writers.for_stage(train, "toy", tmp_path / "b", steps=4, fps=8.0).close()
  assert not (tmp_path / "b" / "tensorboard").exists()


class _Terminal(io.StringIO):
  def __init__(self, live):
    super().__init__()
    self._is_live = live

  def isatty(self):
    return self._is_live


def _drive(live, steps=100):
  """A run of `steps` whose first step takes 30 s and the others half a second."""
  now = [0.0]
  stream = _Terminal(live)
  line = console.Console("toy", steps, stream, clock=lambda: now[0])
  line.start(0)
  for step in range(1, steps + 1):
    now[0] += 30.0 if step == 1 else 0.5
    line.advance(step)
    if step % 50 == 0:
      line.losses(step, {"loss/denoiser": 0.125, "learning_rate": 1e-4})
  return stream.getvalue()


def test_progress_on_a_terminal_is_one_line():
  text = _drive(live=True)
  assert text.count("\n") == 1
  last = text.split("\r")[-1].strip()
  assert last == "[toy] step 100/100  loss 0.125  2 steps/s  ETA 0s"
  assert "step 51/100  loss 0.125  2 steps/s  ETA 24s" in text


def test_progress_in_a_file_is_a_line_every_ten_seconds():
  lines = _drive(live=False).splitlines()
  # 79.5 s in all: one line at the first step, one in each ten seconds, the last.
  assert 5 <= len(lines) <= 8
  assert lines[0] == "[toy] step 1/100  compiling"
  assert lines[-1].startswith("[toy] step 100/100  loss 0.125")


def test_several_losses_are_named():
  stream = _Terminal(live=False)
  line = console.Console("toy", 1, stream)
  line.losses(1, {"loss/generator": 0.5, "loss/discriminator": 2.0, "other": 3.0})
  assert "generator 0.5  discriminator 2" in stream.getvalue()
  assert "other" not in stream.getvalue()


def test_durations():
  found = [console.duration(s) for s in (0, 42, 185, 7800)]
  assert found == ["0s", "42s", "3:05", "2:10:00"]
