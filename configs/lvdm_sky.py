# SPDX-License-Identifier: Apache-2.0
"""LVDM short video on Sky Time-lapse, 16 frames of 256x256 (arXiv 2211.13221).

Source: the released configuration of the authors' code. Its epochs are turned into
steps with the 1,074 training folders that cINN's public list counts.

variant  hardware                 wall time  result
paper    32 GPUs of 32 GB or more  not run    not run
gpu      one GPU, procedural sky  not run    not run
demo     2 CPU cores              see README see README

python -m lamd_jax.main --config=configs/lvdm_sky.py --config.data.root=/data/sky
python -m lamd_jax.main --config=configs/lvdm_sky.py:demo
"""

from lamd_jax import config as config_lib


def get_config(variant: str = "paper"):
  config = config_lib.defaults()
  config.name = "lvdm_sky"
  config.variant = variant
  variants = {"paper": paper, "demo": demo, "gpu": gpu}
  config_lib.check_variant(variant, variants)
  variants[variant](config)
  return config


def paper(config):
  data, optim = config.data, config.optim
  data.source = "frames"
  data.resize = "crop"  # short side, no antialias, centre crop, as the release
  data.fps = 25.0

  config.loss.reconstruction = "l1"
  optim.autoencoder.update(
    steps=67_000,  # 1000 epochs
    batch=16,
    accumulate=2,
    learning_rate=3.6e-5,
    b1=0.5,
    b2=0.9,
  )

  config.diffusion.update(beta_start=0.0015, beta_end=0.0155, loss="l1")
  optim.diffusion.update(
    steps=11_200,  # 2000 epochs
    batch=192,
    accumulate=2,
    learning_rate=6e-5,
    weight_decay=0.01,
    ema_decay=0.9999,
  )
  config.train.update(mesh="fsdp", remat="names")


def _procedural(config, size, videos):
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


def demo(config):
  _procedural(config, size=64, videos=2048)
  config.model.autoencoder.update(channels=8, downsample=(4, 8, 8), groups=8)
  config.model.denoiser.update(
    channels=64,
    channel_mult=(1, 2),
    res_blocks=1,
    attention_downsample=(1, 2),
    heads=2,
    temporal_length=4,
  )
  config.loss.update(reconstruction="mse", gan_weight=0.0, kl_weight=1e-6)
  config.optim.autoencoder.update(
    steps=300,
    batch=8,
    learning_rate=2e-3,
    schedule="cosine",
    warmup=20,
    clip_norm=1.0,
    ema_decay=0.99,
  )
  config.optim.diffusion.update(
    steps=600,
    batch=16,
    learning_rate=1e-3,
    schedule="cosine",
    warmup=50,
    clip_norm=1.0,
    ema_decay=0.995,
  )
  config.train.update(
    latent_cache=True,
    checkpoint_every=200,
    log_every=20,
    preview_every=300,
  )


def gpu(config):
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
