# SPDX-License-Identifier: Apache-2.0
"""The clip table: bounds, strides, and no shared frames."""

import numpy as np
import pytest

from lamd_jax.data import clips


def test_too_short_by_one_frame_is_out():
  # Four frames at stride 3 reach from frame 0 to frame 9: ten frames.
  table = clips.training_table(np.array([9, 10, 0]), 4, 3, "random", False)
  assert table.video.tolist() == [1]
  assert clips.span(4, 3, "random", False) == 10


def test_random_starts_reach_both_ends_and_honour_the_stride():
  table = clips.training_table(np.array([12]), 4, 3, "random", False)
  seen = [
    tuple(clips.frame_indices(table, 0, 12, draw)) for draw in np.linspace(0, 0.9999, 50)
  ]
  assert set(seen) == {(0, 3, 6, 9), (1, 4, 7, 10), (2, 5, 8, 11)}


def test_tiles_share_no_frame_and_stay_inside():
  table = clips.training_table(np.array([25, 7, 12]), 4, 2, "tile", False)
  rows = [(v, s) for v, s in zip(table.video.tolist(), table.start.tolist())]
  # Windows of 7 frames, one every 8: 25 frames hold three of them, 7 and 12 one.
  assert rows == [(0, 0), (0, 8), (0, 16), (1, 0), (2, 0)]


def test_linspace_spreads_over_the_whole_video():
  table = clips.training_table(np.array([30, 4, 3]), 4, 5, "linspace", False)
  assert table.video.tolist() == [0, 1]
  assert clips.frame_indices(table, 0, 30, 0.7).tolist() == [0, 9, 19, 29]


def test_pad_last_repeats_the_last_frame_only_when_asked():
  n_frames = np.array([3, 0])
  assert len(clips.training_table(n_frames, 4, 2, "random", False).video) == 0
  table = clips.training_table(n_frames, 4, 2, "random", True)
  assert table.video.tolist() == [0]
  assert clips.frame_indices(table, 0, 3, 0.9).tolist() == [0, 2, 2, 2]


def test_evaluation_takes_every_video_before_a_second_window_of_any():
  n_frames = np.array([50, 9, 30])
  table = clips.evaluation_table(n_frames, 4, 2, "random", False, 100, seed=3)
  # 7 frames a window, one every 8: 6, 1 and 3 windows.
  assert table.video[:3].tolist() == [0, 1, 2]
  assert np.bincount(table.video).tolist() == [6, 1, 3]
  used = set()
  for row in range(len(table.video)):
    video = int(table.video[row])
    frames = clips.frame_indices(table, row, int(n_frames[video]), 0.5)
    assert frames[0] >= 0 and frames[-1] < n_frames[video]
    assert (np.diff(frames) == 2).all()
    window = {(video, f) for f in range(frames[0], frames[-1] + 1)}
    assert not window & used
    used |= window
  again = clips.evaluation_table(n_frames, 4, 2, "random", False, 4, seed=3)
  assert np.array_equal(again.start, table.start[:4])
  other = clips.evaluation_table(n_frames, 4, 2, "random", False, 100, seed=4)
  assert not np.array_equal(other.start, table.start)


@pytest.mark.parametrize("sampling", ["first", "tile", "linspace"])
def test_evaluation_of_fixed_samplings_is_the_head_of_the_table(sampling):
  n_frames = np.array([20, 20])
  whole = clips.training_table(n_frames, 4, 2, sampling, False)
  head = clips.evaluation_table(n_frames, 4, 2, sampling, False, 2, seed=0)
  assert np.array_equal(head.video, whole.video[:2])
  assert np.array_equal(head.start, whole.start[:2])


def test_jittered_frames_stay_between_their_neighbours():
  table = clips.training_table(np.array([91]), 10, 1, "jittered", False)
  grid = np.arange(0, 91, 10)
  seen = np.stack([
    clips.frame_indices(table, 0, 91, draw) for draw in np.linspace(0, 0.9999, 300)
  ])  # fmt: skip
  assert (np.diff(seen, axis=1) >= 0).all()
  assert (seen[:, 0] == 0).all() and (seen[:, -1] == 90).all()
  # Each inner frame moves by -9 to 9: all of that, and no more, before the sorting.
  moved = seen - grid
  assert np.abs(moved).max() == 9 and abs(moved[:, 1:-1].mean()) < 0.5
  again = clips.frame_indices(table, 0, 91, float(np.linspace(0, 0.9999, 300)[7]))
  assert np.array_equal(again, seen[7])


def test_very_random_draws_with_repetition_and_keeps_the_first_frame():
  assert clips.span(40, 1, "very_random", False) == 1
  table = clips.training_table(np.array([12]), 40, 1, "very_random", False)
  seen = np.stack([
    clips.frame_indices(table, 0, 12, draw) for draw in np.linspace(0, 0.9999, 200)
  ])  # fmt: skip
  assert (seen[:, 0] == 0).all() and (np.diff(seen, axis=1) >= 0).all()
  # 39 uniform draws from 0 to 11 have the mean 5.5; the smallest of 40 is gone.
  counts = np.bincount(seen[:, 1:].ravel(), minlength=12)
  assert len(counts) == 12 and abs(seen[:, 1:].mean() - 5.6) < 0.2
  assert len(np.unique(seen[:, 20])) > 4


def test_mage10_by_hand():
  table = clips.training_table(np.array([300, 33]), 10, 7, "mage10", False)
  # u = 0: interval 3, round(300 / 3) = 100 frames over 0..299, the first ten.
  assert clips.frame_indices(table, 0, 300, 0.0).tolist() == [
    int(i * 299 / 99) for i in range(10)
  ]
  # u -> 1: interval 6, round(33 / 6) = 6 frames over 0..32, the last repeated.
  assert clips.frame_indices(table, 1, 33, 0.9999999).tolist() == [
    0, 6, 12, 19, 25, 32, 32, 32, 32, 32
  ]  # fmt: skip


def test_padded_linspace_repeats_the_last_frame():
  table = clips.training_table(np.array([3]), 5, 1, "linspace", True)
  assert clips.frame_indices(table, 0, 3, 0.5).tolist() == [0, 1, 2, 2, 2]


@pytest.mark.parametrize(
  ("sampling", "n_frames", "expected"),
  [
    ("random", [300], 7), ("tile", [], 7), ("mage10", [], 4.5),
    # 299 steps of the median video in 15 of the clip; 3 frames are no clip.
    ("linspace", [3, 100, 300, 310], 299 / 15), ("jittered", [300], 299 / 15),
    ("very_random", [300, 0], 299 / 15), ("linspace", [16], 1), ("very_random", [5], 1),
    ("linspace", [3], 0), ("linspace", [], 0),
  ],
)  # fmt: skip
def test_spacing(sampling, n_frames, expected):
  found = clips.spacing(np.array(n_frames), 16, 7, sampling, False)
  assert found == pytest.approx(expected)


def test_spacing_of_padded_clips():
  assert clips.spacing(np.array([3, 3, 31]), 16, 7, "linspace", True) == 1
  assert clips.spacing(np.array([9, 1]), 1, 7, "linspace", False) == 4
