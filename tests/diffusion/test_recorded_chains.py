# SPDX-License-Identifier: Apache-2.0
"""The reference's training loss and sampling chains, reproduced draw by draw.

lvdm_diffusion_tiny.npz holds runs of the reference with a tiny prediction UNet (weights
by the fill rule, mask channel, noise-level embedding) on a schedule of 20 levels, with
every noise that was drawn. Error = max|a-b| / max(1, max|b|), at most 1e-4.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax import config
from lamd_jax import types
from lamd_jax.diffusion import constraints
from lamd_jax.diffusion import guidance
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion import samplers
from lamd_jax.diffusion import weighting
from lamd_jax.diffusion.samplers import grid as grid_lib
from lamd_jax.interchange import fill
from lamd_jax.interchange import keys
from lamd_jax.interchange import lvdm_unet
from lamd_jax.nn import initializers
from lamd_jax.systems import lvdm_blocks

# Programs run once: compiling fast beats running fast.
COMPILE = {"xla_backend_optimization_level": 0}
LEVELS = 20
NOISE_LEVEL = 4  # s of the known frames


def error(ours, reference):
  ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
  assert ours.shape == reference.shape
  return np.abs(ours - reference).max() / max(1.0, np.abs(reference).max())


def last(x):
  """[B,C,T,h,w] -> [B,T,h,w,C]."""
  return jnp.asarray(np.moveaxis(x, 1, -1))


@pytest.fixture(scope="module")
def recorded(fixtures):
  with np.load(fixtures / "lvdm" / "lvdm_diffusion_tiny.npz") as data:
    return dict(data)


@pytest.fixture(scope="module")
def process():
  settings = config.defaults().diffusion
  settings.steps = LEVELS
  return process_lib.from_config(settings)


def denoiser(recorded, frames):
  """The tiny UNet for clips of `frames`, which is the reach of its position tables."""
  settings = config.defaults().model.denoiser.to_dict() | dict(
    channels=32,
    channel_mult=(1, 2),
    res_blocks=1,
    attention_downsample=(2,),
    noise_level_classes=251,
    temporal_length=frames,
  )
  unet = lvdm_blocks.unet(settings, 4, remat="none")
  conditions = types.Conditions(
    mask=jnp.zeros((1, frames, 1, 1, 1)), noise_level=jnp.zeros(1, jnp.int32)
  )
  z = jnp.zeros((1, frames, 8, 8, 4))
  expected = initializers.shapes(unet, z, jnp.zeros(1), conditions)["params"]
  names = [str(k) for k in recorded["keys"]]
  column = lambda name: dict(zip(names, recorded[name].tolist(), strict=True))
  rules = lvdm_unet.rules(expected)
  state = fill.state(keys.source_shapes(expected, rules), column("norm_scale"))
  # Sums are recorded for tables of reach 4.
  different = fill.unlike(state, column("w_sum"), column("w_sumsq"))
  assert all("relative_position" in k for k in different) and not (
    different and frames == 4
  )
  params = keys.to_params(state, rules, expected)
  return lambda z, t, c: unet.apply({"params": params}, z, t, c)


@pytest.fixture(scope="module")
def denoise(recorded):
  return denoiser(recorded, 4)


def drop(conditions):
  """The released unconditional call: a zero mask and no noise-level embedding."""
  off = jnp.zeros(conditions.mask.shape[0])
  return conditions._replace(keep={"mask": off, "noise_level": off})


def draws(recorded, tag):
  """All noises of a chain, in the order in which they were drawn."""
  names = sorted(k for k in recorded if k.startswith(f"{tag}_noise"))
  return [last(recorded[name]) for name in names]


def perturb(process, frames, noise):
  return process.add_noise(frames, noise, jnp.full((1,), float(NOISE_LEVEL)))


def chain(process, denoise, sampler, known, guide, eta=0.0):
  """Returns the jitted f(start [1,T,8,8,4], noises [S,...], value at `known`) -> z0."""
  steps, spacing = (LEVELS, "trailing") if sampler == "ddpm" else (5, "ddim_release")
  grid = grid_lib.make(process, steps, spacing)

  def run(start, noises, value):
    assert len(noises) == steps
    mask = np.zeros((1, start.shape[1], 1, 1, 1), np.float32)
    mask[:, list(known)] = 1
    conditions, constraint = types.Conditions(mask=jnp.asarray(mask)), None
    if known:
      conditions = conditions._replace(noise_level=jnp.asarray([NOISE_LEVEL]))
      frames = jnp.zeros(start.shape).at[:, jnp.asarray(known)].set(value)
      constraint = constraints.known_frames(conditions.mask, frames)
    return samplers.SAMPLERS[sampler](
      guidance.classifier_free(denoise, drop, guide),
      process,
      start,
      conditions,
      grid=grid,
      noise=lambda i: noises[i],
      eta=eta,
      constraint=constraint,
    )

  return jax.jit(run, compiler_options=COMPILE)


def chain_error(recorded, process, tag, run, known):
  noises, value = draws(recorded, tag), None
  if known:
    value = perturb(process, last(recorded[f"{tag}_cond"]), noises.pop(0))
    assert error(value, last(recorded[f"{tag}_noisycond"])) < 1e-5
  return error(run(noises[0], jnp.stack(noises[1:]), value), last(recorded[tag]))


def test_schedule(recorded, process):
  bar = process.schedule.alpha_bar
  np.testing.assert_allclose(bar, recorded["alphas_cumprod"], rtol=1e-7)


def test_training_loss(recorded, process, denoise):
  """Per clip: known frames at level s, the others at t; |eps| error over all frames."""
  z0, mask = last(recorded["tr_z0"]), last(recorded["tr_mask"])[:, :, :1, :1]
  s, t = (jnp.asarray(recorded[k], jnp.float32) for k in ("tr_s", "tr_t"))
  noise_t, noise_s = last(recorded["tr_noise_t"]), last(recorded["tr_noise_s"])
  noise = jnp.where(mask != 0, noise_s, noise_t)
  levels = jnp.where(mask[..., 0, 0, 0] != 0, s[:, None], t[:, None])  # [B,T]
  z = process.add_noise(z0, noise, levels)
  conditions = types.Conditions(mask=mask, noise_level=s.astype(jnp.int32))
  raw = jax.jit(denoise, compiler_options=COMPILE)(z, t, conditions)
  target = process.target(z0, noise, levels)
  loss = weighting.loss(process, raw, target, levels, "l1", 0.0).mean()
  assert error(loss, recorded["tr_loss"]) < 1e-4


@pytest.mark.parametrize(
  "tag, known, guide",
  [("ddpm_uncond", (), 1.0), ("ddpm_pred_g0.1", (0,), 1.1)],
)
def test_ddpm(recorded, process, denoise, tag, known, guide):
  run = chain(process, denoise, "ddpm", known, guide)
  assert chain_error(recorded, process, tag, run, known) < 1e-4


@pytest.mark.parametrize(
  "tag, guide, eta",
  [
    ("ddim5_pred_eta0_nog", 1.0, 0.0),
    ("ddim5_pred_eta0_cfgNone_w7.5", 7.5, 0.0),
  ],
)
def test_ddim(recorded, process, denoise, tag, guide, eta):
  run = chain(process, denoise, "ddim", (0,), guide, eta)
  assert chain_error(recorded, process, tag, run, (0,)) < 1e-4


def test_ddim_between_two_known_frames(recorded, process):
  tag, known = "ddim5_interp_eta1_g0.1", (0, 4)
  run = chain(process, denoiser(recorded, 5), "ddim", known, 1.1, 1.0)
  assert chain_error(recorded, process, tag, run, known) < 1e-4


@pytest.fixture(scope="module")
def predict(process, denoise):
  return chain(process, denoise, "ddim", (0,), 1.1, 1.0)


def test_ddim_with_noise(recorded, process, predict):
  tag = "ddim5_pred_eta1_g0.1"
  assert chain_error(recorded, process, tag, predict, (0,)) < 1e-4


def test_clips_one_after_the_other(recorded, process, denoise, predict):
  """ar_fixed: one unconditional clip, then two that go on from the last frame."""
  noises = iter(draws(recorded, "ar"))
  take = lambda n: jnp.stack([next(noises) for _ in range(n)])
  first = chain(process, denoise, "ddim", (), 1.0, 1.0)
  video = first(next(noises), take(5), None)
  for _ in range(2):
    known = perturb(process, video[:, -1:], next(noises))
    clip = predict(next(noises), take(5), known)
    video = jnp.concatenate([video, clip[:, 1:]], axis=1)
  assert next(noises, None) is None
  assert error(video, last(recorded["ar_fixed"])) < 1e-4
