# SPDX-License-Identifier: Apache-2.0
"""I3D against recorded numbers of two references.

`fixtures/lvdm/lvdm_fvd.npz`: scores of LVDM's port at full size, epsilon 1e-5.
`fixtures/i3d/tiny.npz`: a plain torch network of 1/16 the width, epsilon 1e-3;
`fixtures/i3d/make.py` says how they came.
"""

import functools
import json
import zlib

import jax
import numpy as np
import pytest

from lamd_jax.interchange import fill
from lamd_jax.interchange import i3d as weights
from lamd_jax.interchange import keys
from lamd_jax.networks import i3d
import network_fill

TINY = i3d.I3D(epsilon=1e-3, classes=5, divide=16, pool=1)


@pytest.fixture(scope="module")
def recorded(fixtures):
  return np.load(fixtures / "i3d" / "tiny.npz")


@pytest.fixture(scope="module")
def params():
  shapes = weights.keys.source_shapes(
    weights.shapes(TINY), weights.rules(weights.shapes(TINY), "piergiaj")
  )
  state = network_fill.state(shapes, {k: k.endswith("bn.weight") for k in shapes})
  return weights.to_params(state, TINY)


def _clip(frames):
  clip = np.random.RandomState(frames).uniform(-1, 1, (2, frames, 32, 32, 3))
  return clip.astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _apply(network, params, clip):
  return network.apply({"params": params}, clip)


def _scores(params, frames, network=TINY):
  with jax.default_matmul_precision("highest"):
    return np.asarray(_apply(network, params, _clip(frames)))


def _far(a, b):
  return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("frames", [9, 25])
def test_scores_are_those_of_the_reference(params, recorded, frames):
  scores = _scores(params, frames)
  assert scores.shape == (2, 5) and scores.dtype == np.float32
  assert _far(scores, recorded[f"scores{frames}"]) < 1e-5


def test_full_size_gives_the_recorded_scores(fixtures):
  z = np.load(fixtures / "lvdm" / "lvdm_fvd.npz")
  names = [str(k) for k in z["keys"]]
  shapes = dict(zip(names, map(tuple, json.loads(str(z["shapes"])))))
  state = fill.state(shapes, dict(zip(names, z["norm_scale"])))
  assert not fill.unlike(state, *(dict(zip(names, z[k])) for k in ("w_sum", "w_sumsq")))
  network = i3d.I3D(epsilon=1e-5)
  params = weights.to_params(state, network)
  # Batch-norm statistics are not counted, as is usual.
  leaves = keys.flatten(params).items()
  trained = [x for path, x in leaves if path[-1] not in ("mean", "var")]
  assert sum(x.size for x in trained) == z["i3d_params"] == 12_697_264
  draw = np.random.RandomState(zlib.crc32(b"input:i3d_x"))
  clip = np.tanh(draw.standard_normal((1, 3, 16, 224, 224))).astype(np.float32)

  @jax.jit
  def run(params, clip):
    stages = {}
    scores = network.apply({"params": params}, clip, stages)
    return scores, {k: (v.shape, v.mean()) for k, v in stages.items()}

  with jax.default_matmul_precision("highest"):
    scores, stages = run(params, clip.transpose(0, 2, 3, 4, 1))
  assert _far(np.asarray(scores), z["i3d_logits"]) < 1e-5
  for name in ("Conv3d_1a_7x7", "Mixed_3b", "Mixed_4b", "Mixed_5c"):
    shape, mean = stages[name]
    # Theirs has channels second.
    assert tuple(map(int, shape)) == tuple(z[f"{name}_shape"][[0, 2, 3, 4, 1]])
    assert float(mean) == pytest.approx(float(z[f"{name}_mean"]), rel=1e-5)


def test_another_epsilon_is_seen(params, recorded):
  scores = _scores(params, 9, TINY.clone(epsilon=1e-5))
  assert _far(scores, recorded["scores9"]) > 1e-4


@pytest.mark.parametrize("stage", ["Mixed_3c", "Mixed_4d"])
def test_swapped_branches_are_seen(params, recorded, stage):
  # Both are 1x1 of one shape: only numbers show the mistake.
  block = params[stage]
  swapped = {**block, "b0": block["b1a"], "b1a": block["b0"]}
  assert _far(_scores({**params, stage: swapped}, 9), recorded["scores9"]) > 1e-4


def test_eight_frames_are_too_few(params):
  with pytest.raises(ValueError, match="8 frames; I3D needs 9"):
    _scores(params, 8)


@pytest.mark.parametrize("length, expected", [(224, (2, 3)), (223, (3, 3)), (3, (3, 3))])
def test_same_padding(length, expected):
  # ceil(n/2) outputs of width 7 at stride 2; the odd zero goes behind.
  assert i3d.same((length,), (7,), (2,)) == (expected,)
