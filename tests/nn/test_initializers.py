# SPDX-License-Identifier: Apache-2.0
"""NumPy draws parameters of the distributions that JAX would draw."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.nn import initializers
from lamd_jax.nn import layers


class _Net(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = layers.Conv(64, (3, 3, 3), name="conv")(x)
    x = layers.GroupNorm(8, name="norm")(x)
    x = layers.Dense(128, name="dense")(x)
    self.param("table", initializers.normal(0.02), (100, 64))
    self.param("relative", initializers.glorot_uniform(), (90, 60))
    return layers.Conv(4, zero_init=True, name="out")(x)


_INPUT = jax.ShapeDtypeStruct((1, 2, 4, 4, 32), jnp.float32)


def test_same_shapes_and_distributions_as_jax():
  ours = initializers.initialize(_Net(), 0, _INPUT)["params"]
  theirs = nn.unbox(_Net().init(jax.random.key(0), jnp.zeros(_INPUT.shape)))["params"]
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs)
  ):
    name = jax.tree_util.keystr(path)
    assert a.shape == b.shape and a.dtype == b.dtype, name
    # Standard deviations of n draws differ by about 1/sqrt(2n) of themselves.
    tolerance = 6 / np.sqrt(a.size) * float(np.std(b)) + 1e-9
    assert abs(a.std() - np.std(b)) < tolerance, name
    assert abs(a.mean() - np.mean(b)) < 2 * tolerance, name
    assert abs(a).max() <= max(1.5 * abs(np.asarray(b)).max(), 1e-9), name


def test_closed_form_scales():
  params = initializers.initialize(_Net(), 0, _INPUT)["params"]
  # PyTorch: U(-1/sqrt(fan_in), 1/sqrt(fan_in)), fan_in = 27*32, std = bound/sqrt(3).
  bound = 1 / np.sqrt(27 * 32)
  assert params["conv"]["kernel"].std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
  assert abs(params["conv"]["bias"]).max() <= bound
  assert params["table"].std() == pytest.approx(0.02, rel=0.05)
  assert not params["out"]["kernel"].any() and (params["norm"]["scale"] == 1).all()


def test_numbers_follow_seed_and_path_alone():
  first = initializers.initialize(_Net(), 0, _INPUT)
  again = initializers.initialize(_Net(), 0, _INPUT, train=True)
  other = initializers.initialize(_Net(), 1, _INPUT)
  jax.tree.map(np.testing.assert_array_equal, first, again)
  kernel = lambda tree: tree["params"]["conv"]["kernel"]
  assert (kernel(first) != kernel(other)).mean() > 0.99


def test_undescribed_initialiser_is_refused():
  class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
      return self.param("w", nn.initializers.ones, (3,)) * x

  with pytest.raises(TypeError, match=r"\['w'\] has no described initialiser"):
    initializers.initialize(Plain(), 0, jnp.zeros(3))
