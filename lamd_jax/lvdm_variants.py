# SPDX-License-Identifier: Apache-2.0
"""The demo and gpu variants that LVDM's configs share: small models, procedural sky."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from lamd_jax import config as config_lib


def build(
  name: str, variant: str, variants: Mapping[str, Callable[[ConfigDict], None]]
) -> ConfigDict:
  """Returns the config `name` in one of its variants."""
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


def sky_autoencoder(config: ConfigDict) -> None:
  """Sky Time-lapse and its autoencoder, as released."""
  data = config.data
  data.source = "frames"
  data.resize = "crop"  # short side, no antialias, centre crop
  data.fps = 25.0
  config.loss.reconstruction = "l1"
  config.optim.autoencoder.update(
    steps=67_000,  # 1000 epochs
    batch=16,
    accumulate=2,
    learning_rate=3.6e-5,
    b1=0.5,
    b2=0.9,
  )


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
  # to real clips 62 against 6 of v, see docs/results.md.
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
  config.optim.distill.update(  # for who adds the stage
    steps=300,
    batch=8,
    optimizer="muon",
    learning_rate=5e-4,
    schedule="cosine",
    warmup=20,
    clip_norm=1.0,
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


def long(config: ConfigDict) -> None:
  """Turns a demo or gpu variant into one of long video.

  The stage between keyframes learns to go on from known frames too, so that one run
  serves both ways to make long videos.
  """
  config.stages = ("autoencoder", "prediction", "interpolation")
  config.interpolation.update(p_prediction=0.4, p_interpolation=0.5)
  for stage in ("prediction", "interpolation"):
    config.optim[stage] = config.optim.diffusion.copy_and_resolve_references()


def demo_long(config: ConfigDict) -> None:
  """About a quarter of an hour on two CPU cores."""
  demo(config)
  long(config)
  for stage in ("prediction", "interpolation"):
    config.optim[stage].steps = 600


def gpu_long(config: ConfigDict) -> None:
  gpu(config)
  long(config)


def _cater(config: ConfigDict, size: int, videos: int) -> None:
  """Two objects that move as a caption says, and a text encoder of our own."""
  _procedural(config, size=size, videos=videos)
  config.data.update(
    world="cater", world_mode="v1", tokenizer="words", tokens=32, vocabulary_size=1024
  )
  config.model.denoiser.update(
    transformer=True,
    temporal_zero_init=False,
    scale_shift_norm=False,
    temporal_length=4,
  )


def demo_text(config: ConfigDict) -> None:
  """About eighteen minutes of training on two CPU cores."""
  demo(config)
  _cater(config, size=64, videos=2048)
  # A video of this world is one action whatever its length; eight frames show it.
  config.data.frames = 8
  config.model.update(first_stage="image", autoencoder_frames=4)
  config.model.image_autoencoder.update(
    channels=16, channel_mult=(1, 2, 4, 4), res_blocks=1, latent_channels=8, groups=8
  )
  config.model.denoiser.temporal_length = 8
  config.model.text.update(encoder="small", width=128, layers=2, heads=4)
  config.optim.autoencoder.update(steps=600, batch=4)
  config.optim.diffusion.update(steps=800, batch=8)
  config.diffusion.guidance = 8.0


def gpu_text(config: ConfigDict) -> None:
  """Minutes on one GPU."""
  gpu(config)
  _cater(config, size=64, videos=50_000)
  config.model.autoencoder.update(channels=32, downsample=(4, 8, 8), latent_channels=8)
  config.model.text.update(encoder="small", width=256, layers=4, heads=4)
