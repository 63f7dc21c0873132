"""Laws of the normalisations, on random latents of which the moments are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.nn import latent_norm

Z = np.random.default_rng(0).normal(2.0, 3.0, (6, 1, 4, 4, 3)).astype(np.float32)
Z[0] *= 5  # one clip moves more than the others


def normalized(kind, z=Z, of=None):
  of = of or latent_norm.moments(jnp.asarray(z))
  return np.asarray(latent_norm.NORMALIZE[kind](jnp.asarray(z), of))


def test_none_is_the_identity():
  np.testing.assert_array_equal(normalized("none"), Z)


def test_batch_gives_each_channel_mean_0_and_variance_1_and_keeps_magnitudes():
  z = normalized("batch")
  np.testing.assert_allclose(z.mean((0, 1, 2, 3)), 0, atol=1e-5)
  np.testing.assert_allclose(z.var((0, 1, 2, 3)), 1, rtol=1e-4)
  # NumPy's own numbers, not the function's.
  mean, std = Z.mean((0, 1, 2, 3)), Z.std((0, 1, 2, 3))
  np.testing.assert_allclose(z, (Z - mean) / std, rtol=1e-3, atol=1e-4)
  assert z[0].std() > 3 * z[1:].std()


def test_batch_statistics_are_of_the_whole_batch_even_when_it_is_sharded():
  devices = jax.devices()[:2]
  mesh = jax.make_mesh((2,), ("data",), devices=devices)
  placed = jax.device_put(Z, jax.NamedSharding(mesh, jax.P("data")))
  found = jax.jit(latent_norm.moments)(placed)
  np.testing.assert_allclose(found.mean, Z.mean((0, 1, 2, 3)), rtol=1e-5)
  np.testing.assert_allclose(found.variance, Z.var((0, 1, 2, 3)), rtol=1e-4)
  assert abs(Z[:3].mean() - Z.mean()) > 0.1  # half a batch would show


def test_batch_normalises_by_the_moments_it_is_given():
  of = latent_norm.Moments(jnp.full(3, 2.0), jnp.full(3, 4.0))
  np.testing.assert_allclose(normalized("batch", of=of), (Z - 2) / 2, rtol=1e-4)


@pytest.mark.parametrize("kind", ["layer", "l2"])
def test_rows_alone_lose_a_clip_s_strength(kind):
  z = normalized(kind)
  np.testing.assert_allclose(z, normalized(kind, np.float32(10) * Z), rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(z[1:2], normalized(kind, Z[1:2]), rtol=1e-5, atol=1e-6)


def test_layer_and_l2_have_the_norms_they_promise():
  layer, l2 = normalized("layer"), normalized("l2")
  np.testing.assert_allclose(layer.mean((1, 2, 3, 4)), 0, atol=1e-5)
  np.testing.assert_allclose(layer.var((1, 2, 3, 4)), 1, rtol=1e-4)
  np.testing.assert_allclose(np.linalg.norm(l2, axis=-1), np.sqrt(3), rtol=1e-4)


def test_few_batches_are_averaged_and_many_forgotten():
  share = lambda count: float(latent_norm.share(jnp.asarray(count), 0.1))
  assert [share(n) for n in (1, 2, 4)] == [1, 0.5, 0.25]
  assert share(11) == share(1000) == pytest.approx(0.1)


def test_running_moments_move_by_the_momentum_and_stop_gradients():
  old = latent_norm.Moments(jnp.zeros(3), jnp.ones(3))
  new = latent_norm.Moments(jnp.full(3, 10.0), jnp.full(3, 3.0))
  moved = latent_norm.running(old, new, 0.1)
  np.testing.assert_allclose(moved.mean, 1.0)
  np.testing.assert_allclose(moved.variance, 1.2, rtol=1e-6)
  of = lambda z: latent_norm.running(old, latent_norm.moments(z), 0.1).mean.sum()
  assert not np.any(jax.grad(of)(jnp.asarray(Z)))
