# SPDX-License-Identifier: Apache-2.0
"""The memory estimate against the compiler's own figures, and its rules one by one.

Expected numbers come from `compiled.memory_analysis()` of the same program, or are
counted by hand from the shapes in the test.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import pytest

from lamd_jax import config as config_lib
from lamd_jax import types
from lamd_jax.networks import video_autoencoder
from lamd_jax.nn import initializers
from lamd_jax.systems import lvdm_blocks
from lamd_jax.tools import estimate

KIB = 1024


def _spec(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def _compiled(step, *args) -> tuple[estimate.Estimate, int]:
  found = step.lower(*args).compile().memory_analysis()
  parts = estimate.Estimate(
    found.argument_size_in_bytes,
    found.output_size_in_bytes,
    found.alias_size_in_bytes,
    found.temp_size_in_bytes,
  )
  return parts, parts.total


def _training_step(loss, params):
  optimizer = optax.adam(1e-3)
  state = jax.eval_shape(optimizer.init, params)

  def step(params, state, *batch):
    gradients = jax.grad(loss)(params, *batch)
    changes, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, changes), state

  return jax.jit(step, donate_argnums=(0, 1)), (params, state)


def _unet_step(remat: str):
  settings = config_lib.defaults().model.denoiser.to_dict()
  settings.update(channels=32, channel_mult=(1, 2), res_blocks=1)
  unet = lvdm_blocks.unet(settings, 4, remat=remat)
  z, t = _spec(4, 4, 16, 16, 4), _spec(4)
  params = initializers.shapes(unet, z, t, types.Conditions())
  loss = lambda p, z, t: jnp.abs(unet.apply(p, z, t, types.Conditions()) - z).mean()
  step, state = _training_step(loss, params)
  return step, (*state, z, t)


def _autoencoder_step():
  model = video_autoencoder.VideoAutoencoder(8, (2, 4, 4), 4, 8)
  x = _spec(2, 8, 32, 32, 3)
  params = initializers.shapes(model, x)
  loss = lambda p, x: jnp.abs(model.apply(p, x) - x).mean()
  step, state = _training_step(loss, params)
  return step, (*state, x)


@pytest.mark.parametrize(
  "make", [lambda: _unet_step("none"), _autoencoder_step], ids=["unet", "autoencoder"]
)
def test_training_step_within_a_fifth_of_the_compiler(make):
  step, args = make()
  guess = estimate.estimate(step, *args)
  parts, total = _compiled(step, *args)
  assert guess.arguments == parts.arguments
  assert guess.aliased == pytest.approx(parts.aliased, rel=0.01)
  assert guess.total == pytest.approx(total, rel=0.2)


def test_rematerialisation_is_undone_on_cpu_and_only_there():
  # XLA's CPU backend merges the recomputation with the forward pass; measured alike.
  plain, args = _unet_step("none")
  remat, _ = _unet_step("full")

  def on(step, platform):
    return estimate.estimate(step, *args, platform=platform).temporaries

  assert on(remat, "cpu") == on(plain, "cpu")
  assert on(remat, "tpu") < 0.8 * on(plain, "tpu")


def test_donation_and_unread_arguments():
  def step(state, unread, x):
    return state + x.sum(), x * 2

  shapes = (_spec(KIB), _spec(7), _spec(KIB))
  kept = estimate.estimate(jax.jit(step), *shapes)
  given = estimate.estimate(jax.jit(step, donate_argnums=0), *shapes)
  # Two arguments and two outputs of 4 KiB; 28 bytes that nobody reads are dropped.
  assert (kept.arguments, kept.outputs, kept.aliased) == (8 * KIB, 8 * KIB, 0)
  assert (given.arguments, given.outputs, given.aliased) == (8 * KIB, 8 * KIB, 4 * KIB)


def test_elementwise_work_is_fused_and_products_are_stored():
  x = _spec(256, 256)  # 256 KiB
  chain = lambda x: jnp.sum(jnp.sin(x * 2 + 1))
  assert estimate.estimate(chain, x).temporaries < KIB
  # x @ x stands while its product with x is made; the last one is an output.
  products = estimate.estimate(lambda x: (x @ x) @ x, x).temporaries
  assert products == pytest.approx(256 * KIB, rel=0.1)


def test_a_loop_needs_its_body_once():
  def loop(x):
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ c @ c), None), x, None, length=9)[0]

  once = estimate.estimate(jax.jit(loop), _spec(128, 128)).temporaries  # 64 KiB each
  assert 64 * KIB <= once <= 4 * 64 * KIB


def test_the_branch_of_the_platform_is_taken():
  def f(x):
    return jax.lax.platform_dependent(
      x, cpu=lambda x: x.sum(), default=lambda x: ((x @ x) @ x).sum()
    )

  x = _spec(64, 64)
  assert estimate.estimate(f, x, platform="cpu").temporaries < KIB
  assert estimate.estimate(f, x, platform="tpu").temporaries >= 2 * 64 * 64 * 4
