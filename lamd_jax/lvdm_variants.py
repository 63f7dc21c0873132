# SPDX-License-Identifier: Apache-2.0
"""The demo and gpu variants that LVDM's configs share: small models, procedural sky."""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict

from lamd_jax import config as config_lib


def build(
  name: str, variant: str, paper: Callable[[ConfigDict], None]
) -> ConfigDict:
  """Returns the config `name` in one of its variants."""
  variants = {"paper": paper, "demo": demo, "gpu": gpu}
  config_lib.check_variant(variant, variants)
  config = config_lib.defaults()
  config.name = name
  config.variant = variant
  variants[variant](config)
  return config


def _procedural(config: ConfigDict, size: int, videos: int) -> None:
  """The procedural sky in place of the data set; no perceptual weights."""
  config.data.update(
    source="procedural",
    world="sky",
    num_videos=videos,
    frames=16,
    size=size,
    resize="crop_antialias",
    fps=8.0,
  )
  config.model.perceptual.weights = "none"


def demo(config: ConfigDict) -> None:
  """Minutes on two CPU cores."""
  _procedural(config, size=32, videos=768)
  # Own videos through `--config.data.source=folder`: a few bad files are no reason to
  # stop a trial.
  config.data.max_bad_fraction = 0.5
  config.model.autoencoder.update(
    channels=8, downsample=(4, 4, 4), latent_channels=8, groups=8
  )
  config.model.denoiser.update(
    channels=64,
    channel_mult=(1, 2),
    res_blocks=1,
    attention_downsample=(1, 2),
    heads=4,
    temporal_length=4,
  )
  config.loss.update(reconstruction="mse", gan_weight=0.0, kl_weight=1e-5)
  # At this length of training eps leaves the colours of whole clips far off: distance
  # to real clips 62 against 6 of v, see README.
  config.diffusion.update(prediction="v", schedule="cosine", loss="l2")
  config.optim.autoencoder.update(
    steps=320,
    batch=2,
    optimizer="muon",
    learning_rate=5e-3,
    schedule="cosine",
    warmup=10,
    ema_decay=0.98,
  )
  config.optim.diffusion.update(
    steps=300,
    batch=8,
    optimizer="muon",
    learning_rate=2e-3,
    schedule="cosine",
    warmup=20,
    clip_norm=1.0,
    ema_decay=0.99,
  )
  config.train.update(
    mesh="one",
    latent_cache=True,
    latent_samples=64,
    checkpoint_every=200,
    log_every=25,
    preview_every=1000,  # the last step alone
  )


def gpu(config: ConfigDict) -> None:
  """Minutes on one GPU."""
  _procedural(config, size=128, videos=20_000)
  config.model.autoencoder.update(channels=16, downsample=(4, 8, 8), groups=16)
  config.model.denoiser.update(
    channels=128,
    channel_mult=(1, 2, 3),
    res_blocks=2,
    attention_downsample=(1, 2, 4),
    heads=4,
  )
  config.loss.update(reconstruction="l1", gan_weight=0.1, gan_start=6000, kl_weight=1e-6)
  config.model.discriminator.norm = "group"
  config.optim.autoencoder.update(
    steps=10_000,
    batch=16,
    learning_rate=5e-4,
    schedule="cosine",
    warmup=200,
    clip_norm=1.0,
    ema_decay=0.999,
    b1=0.5,
    b2=0.9,
  )
  config.optim.diffusion.update(
    steps=30_000,
    batch=64,
    learning_rate=3e-4,
    schedule="cosine",
    warmup=500,
    clip_norm=1.0,
    ema_decay=0.999,
  )
  config.train.update(
    latent_cache=True, latent_windows=1, checkpoint_every=1000, preview_every=5000
  )
