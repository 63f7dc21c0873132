# SPDX-License-Identifier: Apache-2.0
"""What LaMD's sampling functions promise, on random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.systems import lamd
from lamd_jax.systems import sampling

import tiny

SETTINGS = sampling.SamplerSettings("ddim", 3, 0.0, "trailing", 1.0, 1.0)


def _random_weights(system):
  """The zero-initialised output layers are filled, or all is 0."""
  found = {}
  for stage in system.stages():
    params, extras = stage.init(0)
    noise = np.random.RandomState(0)
    fill = lambda x: (x + 0.1 * noise.standard_normal(x.shape)).astype(np.float32)
    found[stage.name] = {"params": jax.tree.map(fill, params), "extras": extras}
  return found


@pytest.fixture(scope="module")
def system():
  system = lamd.LaMD(tiny.lamd_config(model__motion__num_classes=3))
  return system, _random_weights(system)


CLIPS = np.random.RandomState(0).randint(0, 255, (2, 6, 16, 16, 3)).astype(np.uint8)
TOKENS = np.random.RandomState(1).randint(3, 200, (2, 24)).astype(np.int32)
STREAMS = rng.Streams(rng.root(0), jnp.int32(0))


def sample(system, weights, prompt, guidance=1.0, index=(0, 1)):
  settings = sampling.SamplerSettings("ddim", 3, 0.0, "trailing", guidance, 1.0)
  run = jax.jit(lambda w, i, p: system.sample_latents(w, STREAMS, i, p, settings, 0))
  return np.asarray(run(weights, jnp.array(index), prompt))


def test_image_caption_and_class_all_matter_and_rows_stand_alone(system):
  prompt = types.Prompt(TOKENS, np.array([0, 2], np.int32), CLIPS[:, :1])
  z = sample(*system, prompt)
  assert z.shape == (2, 1, 4, 4, 2)
  changes = (
    {"tokens": TOKENS[::-1]}, {"label": np.array([1, 1], np.int32)},
    {"image": CLIPS[::-1, :1]}, {"label": None},
  )  # fmt: skip
  for change in changes:
    assert np.abs(sample(*system, prompt._replace(**change)) - z).max() > 1e-4, change
  second = jax.tree.map(lambda x: x[1:], prompt)
  np.testing.assert_allclose(sample(*system, second, index=(1,)), z[1:], atol=1e-4)


def test_guidance_drops_caption_and_class_and_keeps_the_content(system):
  model, weights = system
  empty = np.broadcast_to(model.text.empty, TOKENS.shape)
  none = types.Prompt(empty, None, CLIPS[:, :1])
  # Nothing to drop: guidance goes away from what it goes to.
  np.testing.assert_allclose(
    sample(model, weights, none, 3.0), sample(model, weights, none), atol=1e-3
  )
  given = types.Prompt(TOKENS, np.array([0, 2], np.int32), CLIPS[:, :1])
  guided = sample(model, weights, given, 3.0)
  assert np.abs(guided - sample(model, weights, given)).max() > 1e-3


def test_motion_transfer_is_the_donor_s_latent_on_another_image(system):
  model, weights = system
  run = jax.jit(lambda w, v: model.motion(w, v))
  z = run(weights, CLIPS)
  decode = jax.jit(model.decode)
  own = decode(weights, z, types.Prompt(image=CLIPS[:, :1]))
  np.testing.assert_array_equal(own, jax.jit(model.reconstruct)(weights, CLIPS))
  other = decode(weights, z, types.Prompt(image=CLIPS[::-1, :1]))
  assert own.shape == CLIPS.shape and (np.asarray(own) != np.asarray(other)).any()
  replaced = lamd.with_first_frame(own, CLIPS[:, :1])
  np.testing.assert_array_equal(replaced[:, 0], CLIPS[:, 0])
  np.testing.assert_array_equal(replaced[:, 1:], own[:, 1:])


def test_states_of_a_chain_go_from_noise_to_its_result(system):
  model, weights = system
  prompt = types.Prompt(TOKENS, None, CLIPS[:, :1])
  run = jax.jit(
    lambda w, p: model.denoising_states(w, STREAMS, jnp.arange(2), p, SETTINGS)
  )
  states = np.asarray(run(weights, prompt))
  assert states.shape == (4, 2, 1, 4, 4, 2)
  noise = STREAMS.normal("start", jnp.arange(2), (1, 4, 4, 2))
  np.testing.assert_allclose(states[0], noise, rtol=1e-5)
  # Two programs: the largest number, about 100, is right to 8 of its last places.
  result = sample(model, weights, prompt)
  np.testing.assert_allclose(states[-1], result, atol=1e-6 * np.abs(result).max())


@pytest.mark.parametrize("content", ["concat", "crossattn", "both"])
def test_content_reaches_the_generator_each_way(content):
  model = lamd.LaMD(
    tiny.lamd_config(
      model__motion__content_cond=content, model__text__encoder="none",
      data__tokenizer="none", model__motion__content_pool=2,
    )
  )  # fmt: skip
  weights = _random_weights(model)
  prompt = types.Prompt(image=CLIPS[:, :1])
  z = sample(model, weights, prompt)
  other = sample(model, weights, types.Prompt(image=CLIPS[::-1, :1]))
  assert np.abs(z - other).max() > 1e-4
