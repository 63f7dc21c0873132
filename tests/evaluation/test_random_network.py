# SPDX-License-Identifier: Apache-2.0
"""The small random network orders corruptions of clips by their strength."""

import jax
import numpy as np
import pytest

import clip_files
import corruptions
from lamd_jax.evaluation import frechet
from lamd_jax.evaluation import protocol
from lamd_jax.evaluation import random_network

RECORDED_WEIGHTS, RECORDED_FEATURES = 5205.4953, 17.7653
CLIPS = 32  # of each set; the floor at this N is 0.16


@pytest.fixture(scope="module")
def extract():
  kernels = random_network.parameters()
  run = jax.jit(random_network.features)
  eight = lambda clips: (clips[i : i + 8] for i in range(0, len(clips), 8))
  return lambda clips: np.concatenate([run(kernels, part) for part in eight(clips)])


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_stronger_corruption_is_farther(extract, name):
  corrupt = corruptions.CORRUPTIONS[name]
  real = extract(clip_files.waves(CLIPS))
  other = clip_files.waves(CLIPS, seed=1)
  distances = []
  for level in range(1, 6):
    draw = np.random.default_rng(0)
    fake = np.stack([corrupt(clip, level, draw) for clip in other])
    distances.append(frechet.distance(real, extract(fake)).total)
  floor = frechet.distance(real, extract(other)).total
  assert (np.diff(distances) > 0).all(), distances
  assert distances[-1] > 3 * floor


def test_features_are_the_same_everywhere(extract):
  # Recorded from this code: weights that changed would make another score.
  found = extract(clip_files.waves(1))
  assert found.shape == (1, random_network.FEATURES) and np.isfinite(found).all()
  assert sum(np.abs(k).sum(dtype=np.float64) for k in random_network.parameters()) == (
    pytest.approx(RECORDED_WEIGHTS, rel=1e-6)
  )
  assert found.sum() == pytest.approx(RECORDED_FEATURES, rel=1e-4)


def test_it_is_not_called_fvd():
  preset = protocol.find("random_small_16f")
  assert preset.title("frechet").endswith("(not FVD)")


def test_corruptions_keep_shape_and_grow():
  clip, draw = clip_files.waves(1)[0], np.random.default_rng(0)
  for corrupt in corruptions.CORRUPTIONS.values():
    changes = [
      np.abs(corrupt(clip, level, draw).astype(int) - clip).mean() for level in (1, 3, 5)
    ]
    assert 0 < changes[0] < changes[1] < changes[2]
    made = corrupt(clip, 1, draw)
    assert made.shape == clip.shape and made.dtype == np.uint8
  # Shuffling keeps every frame.
  mixed = corruptions.shuffled(clip, 5, draw)
  assert sorted(map(bytes, mixed)) == sorted(map(bytes, clip))
