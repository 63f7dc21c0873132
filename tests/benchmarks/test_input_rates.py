# SPDX-License-Identifier: Apache-2.0
"""The bare side decodes the very windows that the pipeline takes; the table adds up."""

from __future__ import annotations

import argparse
import itertools

import numpy as np

from benchmarks import harness
from benchmarks import input_rates
from lamd_jax import media


def _flags(**changes):
  values = dict(videos="", gop=6, frames=4, stride=2, size=16, clips=4,
                steps_per_second=3.0, batch=8)  # fmt: skip
  return argparse.Namespace(**{**values, **changes})


def test_all_sides_read_windows_of_the_same_videos(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  source, data = tmp_path / "source", tmp_path / "data"
  source.mkdir()
  data.mkdir()
  # Frames whose brightness says which video they are of, and their number.
  for i in range(2):
    level = 20 + 4 * (np.arange(24) + 24 * i)
    frames = np.broadcast_to(level[:, None, None, None], (24, 24, 32, 3))
    media.encode_mp4(source / f"{i}.mp4", frames.astype(np.uint8), 8, {"g": "6"})
  numbers = lambda clip: np.round((clip.astype(float).mean((1, 2, 3)) - 19.5) / 4)
  seen = []
  flags = _flags(videos=str(source))
  input_rates.make_data(flags, data)
  bare = itertools.islice(input_rates.bare(flags, data / "videos"), 5)
  ours = input_rates.ours(flags, "folder", data / "videos")
  for window, clip in zip(bare, ours):
    assert window.shape == (4, 24, 32, 3)
    # The very frames; their colours come by other arithmetic, a level apart.
    assert clip.shape == (4, 16, 16, 3)
    np.testing.assert_array_equal(numbers(window), numbers(clip))
    seen.append(numbers(clip).tolist())
  assert all(np.diff(frames).tolist() == [2, 2, 2] for frames in seen)
  for name in ("frames", "array_record"):
    clip = next(input_rates.ours(flags, name, data / name))
    assert clip.shape == (4, 16, 16, 3) and clip.dtype == np.uint8


def test_the_table_compares_repetitions_that_followed_each_other():
  timing = lambda *cpu: harness.Timing(
    [harness.Sample(2 * c, c) for c in cpu], warm_up=1.0, rss=0.1, facts={}
  )
  found = input_rates.report(
    _flags(), {"bare": timing(1.0, 3.0, 2.0), "mp4": timing(2.0, 4.0, 2.0)}
  )
  # 4 clips in 2 s; ratios 0.5, 0.75 and 1; 24 clips/s at 2 clips/s a core.
  assert "| mp4 | 2.0 | 1.0 | 0.75 | 0.50-1.00 | 12.00 |" in found
  assert "cores for 24 clips/s" in found
