# SPDX-License-Identifier: Apache-2.0
"""Patch critics: shapes, batch statistics as PyTorch's, what sees what."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.errors import ConfigError
from lamd_jax.networks.discriminators import BatchNorm
from lamd_jax.networks.discriminators import FrameDiscriminator
from lamd_jax.networks.discriminators import VideoDiscriminator
from lamd_jax.nn import initializers


def _video(*shape):
  return jax.ShapeDtypeStruct((*shape, 3), jnp.float32)


def _clip(*shape):
  return np.random.default_rng(0).uniform(-1, 1, (*shape, 3)).astype(np.float32)


def test_batch_norm_keeps_pytorchs_statistics():
  rng = np.random.default_rng(0)
  x = 3 + 2 * rng.standard_normal((2, 3, 2, 2, 5)).astype(np.float32)
  rows = x.reshape(-1, 5).astype(np.float64)
  variables = {
    "params": {"scale": np.full(5, 1.5, "f4"), "bias": np.full(5, 0.25, "f4")},
    "batch_stats": {"mean": np.full(5, 7.0, "f4"), "var": np.full(5, 4.0, "f4")},
  }
  norm = BatchNorm()
  y, updated = norm.apply(variables, x, True, mutable=["batch_stats"])
  # BatchNorm2d by its documentation: biased variance to normalise, unbiased to keep,
  # running = 0.9 running + 0.1 new, epsilon 1e-5.
  expected = (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) * 1.5 + 0.25
  np.testing.assert_allclose(y, expected, atol=2e-6)
  stats = updated["batch_stats"]
  np.testing.assert_allclose(stats["mean"], 0.9 * 7 + 0.1 * rows.mean(0), rtol=1e-6)
  unbiased = rows.var(0, ddof=1)
  np.testing.assert_allclose(stats["var"], 0.9 * 4 + 0.1 * unbiased, rtol=1e-6)
  y = norm.apply(variables, x, False)
  np.testing.assert_allclose(y, (x - 7) / np.sqrt(4 + 1e-5) * 1.5 + 0.25, atol=2e-6)


@pytest.mark.parametrize(
  "kind, clip, logits",
  [
    # 64 pixels, strides 2, 2, 2, 1, 1 of kernel 4: 32, 16, 8, 7, 6.
    (FrameDiscriminator, (2, 3, 64, 32), (2, 3, 6, 2, 1)),
    (VideoDiscriminator, (2, 16, 64, 64), (2, 2, 6, 6, 1)),
    (VideoDiscriminator, (1, 1, 32, 32), (1, 1, 2, 2, 1)),
  ],
)
def test_logits_are_a_map_of_patches(kind, clip, logits):
  net = kind(4, 3, "group")
  variables = initializers.shapes(net, _video(*clip), train=True)
  y = jax.eval_shape(lambda v, x: net.apply(v, x, train=True), variables, _video(*clip))
  assert y.shape == logits and y.dtype == jnp.float32
  assert "batch_stats" not in variables


def test_frames_too_small_for_the_layers_are_refused():
  net = FrameDiscriminator(4, 3, "group")
  # 24, 12, 6, 3, 2, 1 pixels pass; 16, 8, 4, 2, 1 leave nothing for the last layer.
  assert initializers.shapes(net, _video(1, 1, 24, 24), train=True)
  with pytest.raises(ConfigError, match="1x1 before conv_out.*fewer.*layers than 3"):
    initializers.shapes(net, _video(1, 1, 16, 16), train=True)


def test_published_size(fixtures):
  net = FrameDiscriminator(64, 3, "batch")
  variables = initializers.shapes(net, _video(1, 1, 32, 32), train=True)
  with np.load(fixtures / "lvdm" / "lvdm_losses_tiny.npz", allow_pickle=False) as data:
    names = [str(k) for k in data["keys"]]
    recorded = dict(zip(names, json.loads(str(data["shapes"]))))
  recorded.pop("logvar")  # of the loss, not of the critic
  running = {k: s for k, s in recorded.items() if ".running_" in k}
  count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  sizes = lambda shapes: sum(math.prod(s) for s in shapes.values())
  assert count(variables["batch_stats"]) == sizes(running)
  assert count(variables["params"]) == sizes(recorded) - sizes(running) == 2_765_633


def test_initial_weights_are_small_and_scales_near_one():
  net = FrameDiscriminator(16, 3, "batch")
  variables = initializers.initialize(net, 0, _video(1, 1, 32, 32), train=True)
  flat = {
    "/".join(k.key for k in path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
  }
  kernels = [v for k, v in flat.items() if k.endswith("conv_3/kernel")]
  scales = [v for k, v in flat.items() if k.endswith("scale")]
  assert len(kernels) == 1 and len(scales) == 3
  assert abs(kernels[0].std() - 0.02) < 1e-3 and abs(kernels[0].mean()) < 1e-3
  for scale in scales:
    assert abs(scale.mean() - 1) < 0.02 and 0.01 < scale.std() < 0.03


def _changed_logits(kind, norm, train):
  """Which frames' logits change with frame 1 of the first of two clips."""
  net = kind(4, 1, norm)
  x = _clip(2, 4, 8, 8)
  variables = initializers.initialize(net, 0, x, train=True)
  judge = lambda x: net.apply(variables, x, train=train, mutable=["batch_stats"])[0]
  run = jax.jit(judge)
  other = x.copy()
  other[0, 1] *= -1
  return np.abs(run(other) - run(x)).max((2, 3, 4)) > 1e-6


def test_a_frame_is_judged_by_itself():
  alone = np.zeros((2, 4), bool)
  alone[0, 1] = True
  for norm, train in (("group", True), ("batch", False)):
    changed = _changed_logits(FrameDiscriminator, norm, train)
    np.testing.assert_array_equal(changed, alone)
  # Batch statistics, in training, tie all frames together.
  assert _changed_logits(FrameDiscriminator, "batch", True).all()


def test_a_clip_is_judged_as_a_whole():
  changed = _changed_logits(VideoDiscriminator, "group", True)
  assert changed[0].all() and not changed[1].any()
