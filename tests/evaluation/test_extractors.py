# SPDX-License-Identifier: Apache-2.0
"""Features are those of preparation and network, whatever the batch and the devices."""

import jax
import numpy as np
import pytest

import clip_files
from lamd_jax.errors import DataError
from lamd_jax.evaluation import extractors
from lamd_jax.evaluation import protocol as protocol_lib
from lamd_jax.evaluation import random_network
from lamd_jax.evaluation import resize
from lamd_jax.networks import i3d
from lamd_jax.nn import initializers

TINY = i3d.I3D(1e-3, 5, 16, 1)
SMALL = protocol_lib.find("random_small_16f")


def _run(extractor, clips):
  return np.concatenate(list(extractor(clips)))


def test_batches_and_devices_change_nothing():
  clips = clip_files.waves(11)
  kernels = random_network.parameters()
  expected = random_network.features(kernels, clips)
  for batch in (3, 8):
    extractor = extractors.Extractor(SMALL, kernels, batch)
    assert extractor.batch == len(jax.local_devices()) == 8
    found = _run(extractor, iter(clips))
    assert found.dtype == np.float64 and found.shape == (11, random_network.FEATURES)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_i3d_gets_what_the_protocol_says(monkeypatch):
  monkeypatch.setattr(i3d, "SIZE", 32)
  monkeypatch.setattr(i3d, "I3D", lambda epsilon: TINY.clone(epsilon=epsilon))
  clips = clip_files.waves(2, frames=9, size=24)
  params = initializers.initialize(TINY, 0, np.zeros((1, 9, 32, 32, 3), "f4"))["params"]
  monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
  protocol = protocol_lib.find("tf2018").changed({"frames": 9, "epsilon": 0.5})
  found = _run(extractors.Extractor(protocol, params, 2), clips)
  apply = jax.jit(TINY.clone(epsilon=0.5).apply)
  # Scores of random weights hardly differ between clips: compare their differences.
  spread = lambda x: np.asarray(x)[0] - np.asarray(x)[1]
  far = lambda flavour: np.abs(
    spread(apply({"params": params}, resize.to_network(clips, 32, flavour, "squash")))
    - spread(found)
  ).max() / np.abs(spread(found)).max()
  assert far("tf1_legacy") < 1e-4
  assert far("half_pixel") > 1e-3
  x = resize.to_network(clips, 32, "tf1_legacy", "squash")
  sharper = jax.jit(TINY.apply)({"params": params}, x)
  assert np.abs(sharper - found).max() > 1e-3 * np.abs(found).max()


def test_weights_that_give_nan_are_refused():
  kernels = random_network.parameters()
  kernels[1][0, 0, 0, 0, 0] = np.nan
  extractor = extractors.Extractor(SMALL, kernels, 8)
  with pytest.raises(DataError, match="features are not finite"):
    _run(extractor, clip_files.waves(1))


def test_short_clips_are_refused():
  with pytest.raises(DataError, match="clips of 8 frames; random_small needs 9"):
    extractors.Extractor(SMALL.changed({"frames": 8}), random_network.parameters(), 8)
