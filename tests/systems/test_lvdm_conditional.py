"""The conditional stages: what they train on, how a clip around known frames is made."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.systems import lvdm
from lamd_jax.systems import sampling

import tiny

INDEX = jnp.arange(2)
SETTINGS = sampling.SamplerSettings("ddim", 3, 0.0, "trailing", 1.0, 1.0)


def config(**overrides):
  return tiny.config(
    stages=("autoencoder", "prediction", "interpolation"),
    prediction__sparse=2, prediction__latents=3,
    interpolation__latents=3, interpolation__p_prediction=0.3,
    interpolation__p_interpolation=0.5, **overrides,
  )  # fmt: skip


@pytest.fixture(scope="module")
def system():
  return lvdm.LVDM(config())


@pytest.fixture(scope="module")
def weights(system):
  """Random weights; the zero-initialised output layer is filled, or all is 0."""
  stages = {s.name: s for s in system.stages()}
  found = {}
  for name in system.generates_with:
    params, extras = stages[name].init(0)
    noise = np.random.RandomState(0)
    fill = lambda x: (x + 0.05 * noise.standard_normal(x.shape)).astype(np.float32)
    found[name] = {"params": jax.tree.map(fill, params), "extras": extras}
  return found


def streams(step=0):
  return rng.Streams(rng.root(0), jnp.int32(step))


def test_a_training_clip_spans_the_sparse_latents(system):
  # (latents - 1) * sparse + 1 latents of 2 frames each.
  frames = {s.name: s.frames for s in system.stages()}
  assert frames == {
    "autoencoder": 4, "diffusion": 4, "prediction": 10, "interpolation": 6, "distill": 4
  }  # fmt: skip


def test_tasks_come_as_often_as_configured(system):
  stage = lvdm.ConditionalStage(system, "interpolation")
  mask = np.asarray(stage._known(jnp.linspace(0, 0.9999, 1000)))[..., 0, 0, 0]
  kinds, counts = np.unique(mask, axis=0, return_counts=True)
  found = {tuple(k): n for k, n in zip(kinds.tolist(), counts.tolist(), strict=True)}
  # p_prediction .3 (first known), p_interpolation .5 (both ends), the rest .2.
  expected = {(1, 0, 0): 300, (1, 0, 1): 500, (0, 0, 0): 200}
  assert found.keys() == expected.keys()
  assert all(abs(found[k] - expected[k]) <= 1 for k in found)


def test_sparse_latents_are_every_nth_of_the_whole_clip(system, weights):
  stage = lvdm.ConditionalStage(system, "prediction")
  video = np.random.RandomState(0).randint(0, 255, (2, 10, 16, 16, 3)).astype(np.uint8)
  batch = types.VideoBatch(video, np.arange(2, dtype=np.int32))
  whole = lvdm.DiffusionStage(system).encode(weights, batch)
  found = stage.encode(weights, batch)
  np.testing.assert_array_equal(found.mean, whole.mean[:, ::2])
  # A batch from the cache is already sparse and passes through.
  assert stage.encode(weights, found) is found


def test_forward_sees_known_frames_at_their_own_level(system, monkeypatch):
  """x = (1-m) q(z0,t) + m q(z0,s), the network told t, s and m (lvdm.md, 5.1)."""
  stage = lvdm.ConditionalStage(system, "interpolation")
  z0 = np.random.RandomState(1).standard_normal((8, 3, 4, 4, 2)).astype(np.float32)
  index = jnp.arange(8)
  batch = types.LatentBatch(z0, np.full_like(z0, -30), index)
  frozen = {"autoencoder": {"extras": {"latent_scale": 1.0, "latent_shift": 0.0}}}
  seen = {}

  def denoiser(name, params):
    def denoise(z, t, conditions):
      seen.update(z=z, t=t, conditions=conditions)
      return jnp.zeros_like(z)

    return denoise

  monkeypatch.setattr(system, "denoiser", denoiser)
  stage.forward({"denoiser": {}}, {}, frozen, batch, streams(), "video")
  mask, s, t = seen["conditions"].mask, seen["conditions"].noise_level, seen["t"]
  assert len(set(np.asarray(mask).sum((1, 2, 3, 4)).tolist())) > 1
  assert int(s.max()) < 250 and float(t.max()) > 250
  noise = streams().normal("noise", index, z0.shape[1:])
  at = lambda level: system.process.add_noise(jnp.asarray(z0), noise, level)
  expected = jnp.where(mask != 0, at(s.astype(jnp.float32)), at(t))
  np.testing.assert_allclose(seen["z"], expected, atol=1e-5)


def clip(system, weights, mask, known, **options):
  options = {"guidance": 1.0, "noise_level": 100, "null": "released", **options}
  guidance = options.pop("guidance")
  run = jax.jit(
    lambda w, m, k: system.conditional_clip(
      "interpolation", w, streams(), INDEX, m, k,
      dataclasses.replace(SETTINGS, guidance=guidance), **options,
    )
  )  # fmt: skip
  return np.asarray(run(weights, mask, known))


MASK = np.zeros((2, 3, 1, 1, 1), np.float32)
MASK[:, [0, -1]] = 1
KNOWN = np.random.RandomState(2).standard_normal((2, 3, 4, 4, 2)).astype(np.float32)


@pytest.mark.parametrize("null", ["released", "unconditional"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_known_frames_come_out_clean_and_matter(system, weights, null, guidance):
  made = clip(system, weights, MASK, KNOWN, null=null, guidance=guidance)
  np.testing.assert_array_equal(made[:, [0, -1]], KNOWN[:, [0, -1]])
  other = KNOWN.copy()
  other[:, 1] += 5  # not known: must not be seen
  again = clip(system, weights, MASK, other, null=null, guidance=guidance)
  np.testing.assert_array_equal(made, again)
  other[:, 0] += 5
  moved = clip(system, weights, MASK, other, null=null, guidance=guidance)
  assert np.abs(moved[:, 1] - made[:, 1]).max() > 1e-4


def test_forms_of_null_and_noise_levels_differ(system, weights):
  made = [
    clip(system, weights, MASK, KNOWN, guidance=2.0, null="released"),
    clip(system, weights, MASK, KNOWN, guidance=2.0, null="unconditional"),
    clip(system, weights, MASK, KNOWN, guidance=1.0),
    clip(system, weights, MASK, KNOWN, guidance=1.0, noise_level=0),
  ]
  for i, a in enumerate(made):
    for b in made[i + 1 :]:
      assert np.abs(a - b).max() > 1e-5


def test_a_clip_from_nothing_ignores_what_is_known(system, weights):
  nothing = np.zeros_like(MASK)
  a = clip(system, weights, nothing, KNOWN, guidance=3.0)
  b = clip(system, weights, nothing, 0 * KNOWN)
  # Released form: both calls are the same one, so guidance has no effect (5.3).
  np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_two_calls_of_each_form_see_what_they_should(system, weights, monkeypatch):
  """Released: both see the known frames. Unconditional: the null call does not."""
  calls = []

  def denoiser(name, params):
    def denoise(z, t, conditions):
      jax.debug.callback(lambda z, c: calls.append((z, c)), z, conditions)
      return jnp.zeros_like(z)

    return denoise

  monkeypatch.setattr(system, "denoiser", denoiser)
  for null in ("released", "unconditional"):
    calls.clear()
    clip(system, weights, MASK, KNOWN, null=null, guidance=2.0, noise_level=0)
    jax.effects_barrier()
    z, conditions = calls[0]
    keep = {k: v.tolist() for k, v in conditions.keep.items()}
    # Rows alternate: with conditions, without.
    assert keep["mask"] == [1, 0, 1, 0]
    assert keep.get("noise_level", [1] * 4) == (
      [1, 0, 1, 0] if null == "released" else [1] * 4
    )
    same = np.abs(z[0, 0] - z[1, 0]).max() < 1e-6
    assert same == (null == "released")
    np.testing.assert_array_equal(z[0, 1], z[1, 1])
