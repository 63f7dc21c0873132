# SPDX-License-Identifier: Apache-2.0
"""The small content encoder: unit rows, padding, pooling, the temperature's limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.networks import contrastive
from lamd_jax.nn import initializers

NETWORK = contrastive.Contrastive(
  width=6, image_channels=8, text_width=8, text_layers=1, text_heads=2, vocabulary=20,
  length=5, pad=0,
)  # fmt: skip
TOKENS = np.array([[1, 5, 7, 2, 0], [1, 9, 2, 0, 0]], np.int32)


@pytest.fixture(scope="module")
def params():
  picture = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  return initializers.initialize(NETWORK, 0, picture, TOKENS)["params"]


@pytest.fixture(scope="module")
def pictures():
  draw = np.random.default_rng(0)
  return draw.uniform(-1, 1, (2, 20, 16, 3)).astype(np.float32)


def _apply(params, *args, method="__call__"):
  return jax.jit(lambda p, *a: NETWORK.apply({"params": p}, *a, method=method))(
    params, *args
  )


def test_rows_are_of_unit_length_and_do_not_depend_on_their_batch(params, pictures):
  images, texts, scale = _apply(params, pictures, TOKENS)
  for rows in (images, texts):
    assert rows.shape == (2, 6) and rows.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
  alone = _apply(params, pictures[1:], method="images")
  np.testing.assert_allclose(alone, images[1:], atol=1e-5)
  assert float(scale) == pytest.approx(1 / 0.07)  # CLIP's first temperature


def test_the_scale_ends_at_a_hundred(params, pictures):
  """Section 2.4 of CLIP's paper; exp(6) would be 403."""
  params = {**params, "log_scale": np.float32(6.0)}
  scale = _apply(params, pictures, TOKENS)[2]
  assert float(scale) == 100


def test_padding_does_not_reach_the_embedding(params):
  long, states = _apply(params, TOKENS[1:], method="texts")
  short, _ = _apply(params, TOKENS[1:, :3], method="texts")
  np.testing.assert_allclose(long, short, atol=1e-5)
  assert states.shape == (1, 5, 8)
  other = _apply(params, TOKENS[:1], method="texts")[0]
  assert np.abs(other - long).max() > 1e-3


def test_everything_learns(params, pictures):
  def loss(params):
    images, texts, scale = NETWORK.apply({"params": params}, pictures, TOKENS)
    return -jax.nn.log_softmax(scale * images @ texts.T)[0, 0]

  grads = jax.jit(jax.grad(loss))(params)
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    name = jax.tree_util.keystr(path)
    assert np.isfinite(grad).all()
    # Softmax does not see what a key's bias adds to all logits of a row.
    if "['k']['bias']" not in name:
      assert np.abs(grad).max() > 0, name


def test_a_row_of_zeros_stays_finite():
  assert not np.asarray(contrastive.unit(jnp.zeros((1, 3)))).any()
