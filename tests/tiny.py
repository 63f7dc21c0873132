# SPDX-License-Identifier: Apache-2.0
"""A run small enough to train in a test: 4 frames of 16x16 of procedural sky."""

from __future__ import annotations

import jax

from lamd_jax import api
from lamd_jax import config as config_lib
from lamd_jax.systems.registry import SYSTEMS


def config(**overrides):
  """Returns the config; overrides are dotted keys with "__" for the dots."""
  tree = config_lib.defaults()
  tree.name = "tiny"
  tree.variant = "demo"
  tree.data.update(
    source="procedural", num_videos=32, frames=4, size=16, num_threads=2
  )
  tree.model.autoencoder.update(
    channels=4, downsample=(2, 4, 4), latent_channels=2, groups=4
  )
  tree.model.denoiser.update(
    channels=32,
    channel_mult=(1,),
    res_blocks=1,
    attention_downsample=(1,),
    heads=2,
    temporal_length=2,
  )
  tree.model.discriminator.update(channels=4, layers=1)
  tree.model.perceptual.weights = "none"
  tree.loss.update(gan_start=2, kl_weight=1e-4)
  for stage in tree.optim:
    tree.optim[stage].update(
      steps=6, batch=8, learning_rate=1e-3, clip_norm=1.0, ema_decay=0.99
    )
  tree.train.update(
    checkpoint_every=3,
    log_every=1,
    preview_every=0,
    preview_clips=2,
    preview_steps=2,
    latent_samples=8,
    tensorboard=False,
    report=False,
  )
  tree.update_from_flattened_dict(
    {key.replace("__", "."): value for key, value in overrides.items()}
  )
  return tree.lock()


def text_config(**overrides):
  """Text-to-video on the captioned world, with the small text encoder."""
  return config(**{
    "data__world": "cater", "data__world_mode": "v1", "data__tokenizer": "words",
    "data__tokens": 24, "data__vocabulary_size": 256,
    "model__denoiser__transformer": True, "model__denoiser__scale_shift_norm": False,
    "model__text__encoder": "small", "model__text__width": 16,
    "model__text__layers": 1, "model__text__heads": 2, "loss__gan_weight": 0.0,
    **overrides,
  })  # fmt: skip


def lamd_config(**overrides):
  """LaMD on the captioned world: 6 frames of 16x16, a motion map of 4x4x2."""
  return config(**{
    "system": "lamd", "stages": ("motion_autoencoder", "motion_diffusion"),
    "data__world": "cater", "data__world_mode": "v1", "data__tokenizer": "words",
    "data__tokens": 24, "data__vocabulary_size": 256, "data__frames": 6,
    "model__denoiser__scale_shift_norm": False, "model__text__encoder": "small",
    "model__text__width": 16, "model__text__layers": 1, "model__text__heads": 2,
    "model__motion__autoencoder__latent_channels": 2,
    "model__motion__autoencoder__content_channels": 4,
    "model__motion__autoencoder__content_mult": (1, 1, 2),
    "model__motion__autoencoder__content_blocks": 1,
    "model__motion__autoencoder__content_groups": 4,
    "model__motion__autoencoder__encoder_widths": (4, 4, 4),
    "model__motion__autoencoder__decoder_widths": (4, 4, 4),
    "model__motion__autoencoder__groups": 4,
    "model__motion__concat_channels": 4, "model__motion__content_cond": "both",
    "model__discriminator__kind": "video", "model__discriminator__norm": "group",
    **overrides,
  })  # fmt: skip


def gen1_config(**overrides):
  """Gen-1 on the captioned world: 4 frames of 16x16, latents of 4x4x2."""
  return config(**{
    "system": "gen1",
    "stages": ("autoencoder", "content", "image", "video", "structure",
               "structure_levels", "prior"),
    "data__world": "cater", "data__world_mode": "v1", "data__tokenizer": "words",
    "data__captions": "appearance", "data__tokens": 24, "data__vocabulary_size": 256,
    "data__depth": "world", "model__first_stage": "image",
    "model__image_autoencoder__channels": 4,
    "model__image_autoencoder__channel_mult": (1, 1, 2),
    "model__image_autoencoder__res_blocks": 1,
    "model__image_autoencoder__latent_channels": 2,
    "model__image_autoencoder__groups": 4,
    "model__denoiser__scale_shift_norm": False,
    "model__content__width": 8, "model__content__image_channels": 8,
    "model__content__text_width": 8, "model__content__text_heads": 2,
    "model__content__tokens": 2, "model__content__context_width": 8,
    "model__structure__levels": 3, "model__structure__standardise": True,
    "model__prior__kind": "regressor", "model__prior__width": 8,
    "loss__gan_weight": 0.0, "diffusion__prediction": "v",
    "optim__content__ema_decay": 0.0,
    **overrides,
  })  # fmt: skip


def model(config):
  """An untrained model, for tests that do not depend on its weights."""
  system = SYSTEMS[config.system](config)
  weights = {}
  for stage in system.stages():
    if stage.name in config.stages:
      params, extras = stage.init(0)[:2]
      weights[stage.name] = {"params": params, "extras": extras}
  return api.Model(config, jax.device_put(weights))
