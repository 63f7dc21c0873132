# SPDX-License-Identifier: Apache-2.0
"""What LaMD's configs share: the paper's sizes, and small models on procedural data.

No code of the paper was released. What it states is marked (paper); the rest is our
choice, with what the choice rests on in the docstrings of the networks.
"""

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
  config.system = "lamd"
  config.name = name
  config.variant = variant
  config.stages = ("motion_autoencoder", "motion_diffusion")
  variants[variant](config)
  return config


def paper(config: ConfigDict) -> None:
  """Sizes and training of the paper; the data are for the config to say."""
  config.model.denoiser.update(  # 339.8M parameters at a context of 768
    channels=224,
    channel_mult=(1, 2, 3, 4),
    res_blocks=2,
    attention_downsample=(1, 2, 4),
    head_channels=32,
    scale_shift_norm=False,
  )
  config.model.motion.content_cond = "both"
  config.model.discriminator.update(kind="video", norm="group")
  config.loss.update(
    kl_weight=1e-2,  # (paper), means over latents and over pixels
    gan_weight=0.5,
    gan_start=80_000,
  )
  config.diffusion.update(  # T=1000, eps, squared error (paper)
    beta_start=0.0015, beta_end=0.0195, loss="l2"
  )
  config.optim.motion_autoencoder.update(
    steps=200_000,
    batch=16,
    learning_rate=1e-4,
    schedule="cosine",
    final_fraction=0.1,
    b1=0.5,
    b2=0.9,
    clip_norm=1.0,
    ema_decay=0.999,
  )
  config.optim.motion_diffusion.update(
    steps=300_000,
    batch=64,
    learning_rate=1e-4,
    warmup=5000,
    weight_decay=1e-2,
    ema_decay=0.9999,
  )
  config.train.update(
    latent_cache=True, checkpoint_every=5000, preview_every=5000, log_every=100
  )


def paper_text(config: ConfigDict) -> None:
  """MAGE's text encoder, trained jointly; captions are attended to."""
  config.model.motion.content_cond = "concat"
  config.model.text.update(encoder="small", width=512, layers=2, heads=16)
  config.data.update(tokenizer="words", tokens=38, vocabulary_size=1024)


def _cater(config: ConfigDict, mode: str, size: int, videos: int) -> None:
  """The ray-cast world in place of the data set; no perceptual weights."""
  config.data.update(
    source="procedural", world="cater", world_mode=mode, num_videos=videos, frames=16,
    size=size, tokenizer="words", tokens=32 if mode == "v1" else 64,
    vocabulary_size=1024,
  )  # fmt: skip
  config.model.perceptual.weights = "none"


def _sky(config: ConfigDict, size: int, videos: int) -> None:
  config.data.update(
    source="procedural", world="sky", world_mode="drift", num_videos=videos, frames=16,
    size=size,
  )  # fmt: skip
  config.model.perceptual.weights = "none"


def _demo(config: ConfigDict) -> None:
  """Meant for twelve minutes on two CPU cores; what it took: docs/results.md."""
  config.data.max_bad_fraction = 0.5  # own videos: a few bad ones shall not stop a trial
  config.model.motion.autoencoder.update(
    latent_channels=4,  # of 8x8
    patch=2,
    content_channels=16,
    content_mult=(1, 2, 4),
    content_blocks=1,
    content_groups=8,
    encoder_widths=(16, 32, 64),
    decoder_widths=(16, 48, 64),
    decoder_attention=True,
    groups=8,
  )
  config.model.motion.update(content_cond="concat", concat_channels=32)
  config.model.denoiser.update(
    channels=64,
    channel_mult=(1, 2),
    res_blocks=1,
    attention_downsample=(1, 2),
    head_channels=32,
    scale_shift_norm=False,
  )
  config.model.text.update(width=128, layers=2, heads=4)
  config.loss.update(reconstruction="mse", gan_weight=0.0, kl_weight=3e-4)
  config.diffusion.update(prediction="v", schedule="cosine", loss="l2")
  config.optim.motion_autoencoder.update(
    steps=450,
    batch=4,
    optimizer="muon",
    learning_rate=5e-3,
    schedule="cosine",
    warmup=20,
    clip_norm=1.0,
    ema_decay=0.98,
  )
  config.optim.motion_diffusion.update(
    steps=560,
    batch=16,
    optimizer="muon",
    learning_rate=2e-3,
    schedule="cosine",
    warmup=20,
    clip_norm=1.0,
    ema_decay=0.99,
  )
  config.optim.distill.update(  # for who adds the stage; not tuned
    config.optim.motion_diffusion, steps=300, learning_rate=5e-4, ema_decay=0.95
  )
  config.train.update(
    mesh="one",
    latent_cache=True,
    latent_samples=128,
    checkpoint_every=200,
    log_every=25,
    preview_every=1000,  # the last step alone
  )


def _gpu(config: ConfigDict) -> None:
  """Minutes on one GPU."""
  config.model.motion.autoencoder.update(
    latent_channels=3,
    content_channels=64,
    content_mult=(1, 2, 4),
    content_blocks=1,
    encoder_widths=(32, 96, 192),
    decoder_widths=(32, 96, 192),
  )
  config.model.motion.update(content_cond="concat", concat_channels=64)
  config.model.denoiser.update(
    channels=128,
    channel_mult=(1, 2, 3),
    res_blocks=2,
    attention_downsample=(1, 2, 4),
    head_channels=32,
    scale_shift_norm=False,
  )
  config.model.text.update(width=256, layers=2, heads=4)
  config.model.discriminator.update(kind="video", norm="group", channels=32)
  config.loss.update(gan_weight=0.1, gan_start=5000, kl_weight=1e-2)
  config.diffusion.update(prediction="v", schedule="cosine", loss="l2")
  config.optim.motion_autoencoder.update(
    steps=8000,
    batch=32,
    optimizer="muon",
    learning_rate=3e-3,
    schedule="cosine",
    warmup=200,
    clip_norm=1.0,
    ema_decay=0.999,
  )
  config.optim.motion_diffusion.update(
    steps=20_000,
    batch=128,
    optimizer="muon",
    learning_rate=1e-3,
    schedule="cosine",
    warmup=200,
    clip_norm=1.0,
    ema_decay=0.999,
  )
  config.train.update(latent_cache=True, checkpoint_every=1000, preview_every=5000)


def demo_text(config: ConfigDict) -> None:
  """Captions say what moves, how and where to."""
  _cater(config, "v1", size=64, videos=4096)
  _demo(config)
  config.model.text.encoder = "small"


def demo_text_v2(config: ConfigDict) -> None:
  demo_text(config)
  _cater(config, "v2", size=64, videos=4096)


def gpu_text(config: ConfigDict) -> None:
  _cater(config, "v1", size=64, videos=50_000)
  _gpu(config)
  config.model.text.encoder = "small"


def gpu_text_v2(config: ConfigDict) -> None:
  gpu_text(config)
  _cater(config, "v2", size=128, videos=50_000)


def demo_image(config: ConfigDict) -> None:
  """An image alone: clouds that drift on."""
  _sky(config, size=64, videos=2048)
  _demo(config)


def gpu_image(config: ConfigDict) -> None:
  _sky(config, size=128, videos=20_000)
  _gpu(config)


def demo_class(config: ConfigDict) -> None:
  """Classes instead of captions: what moves how, not where to."""
  demo_text(config)
  _classes(config)


def gpu_class(config: ConfigDict) -> None:
  gpu_text(config)
  _classes(config)


def _classes(config: ConfigDict) -> None:
  config.data.update(tokenizer="none", label_actions=True)
  config.model.text.encoder = "none"
  config.model.motion.update(num_classes=16, context_width=128)
