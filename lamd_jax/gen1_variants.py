# SPDX-License-Identifier: Apache-2.0
"""What Gen-1's configs share: the paper's sizes, and small models on procedural data.

No code of the paper was released. What it states is marked (paper); the rest is our
choice, with what it rests on in the docstrings of the networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from lamd_jax import config as config_lib

_STAGES = ("content", "image", "video", "structure", "structure_levels", "prior")


def build(
  name: str, variant: str, variants: Mapping[str, Callable[[ConfigDict], None]]
) -> ConfigDict:
  """Returns the config `name` in one of its variants."""
  config_lib.check_variant(variant, variants)
  config = config_lib.defaults()
  config.system = "gen1"
  config.name = name
  config.variant = variant
  config.model.first_stage = "image"
  variants[variant](config)
  return config


def paper(config: ConfigDict) -> None:
  """Stable Diffusion 1 with temporal layers; all that is frozen comes from files."""
  config.stages = _STAGES[1:]
  config.data.update(
    size=256, frames=8, stride=4, depth="estimated", tokenizer="clip", tokens=77
  )
  model = config.model
  model.update(latent_scale=0.18215, latent_shift=0.0)
  model.content.update(encoder="clip", network="l14", context_width=768)
  model.denoiser.update(
    channels=320,
    channel_mult=(1, 2, 4, 4),
    res_blocks=2,
    attention_downsample=(1, 2, 4),
    heads=8,
    scale_shift_norm=False,
  )
  config.diffusion.update(
    beta_start=0.00085, beta_end=0.012, prediction="v", loss="l2", guidance=7.5
  )
  steps = dict(image=15_000, video=75_000, structure=25_000, structure_levels=10_000)
  for stage, count in steps.items():
    config.optim[stage].update(  # batches and optimiser are ours: the paper's are not known
      steps=count, batch=64, learning_rate=5e-5, warmup=500, ema_decay=0.9999
    )
  config.optim.prior.update(
    steps=100_000, batch=512, learning_rate=1.1e-4, weight_decay=6e-2, warmup=500,
    ema_decay=0.9999,
  )  # fmt: skip
  config.train.update(mesh="fsdp", remat="names", checkpoint_every=1000)


def _cater(config: ConfigDict, size: int, videos: int) -> None:
  """The ray-cast world: a cone of any colour and material, and the snitch."""
  config.stages = ("autoencoder", *_STAGES)
  config.data.update(
    source="procedural", world="cater", world_mode="v1", captions="appearance",
    depth="world", num_videos=videos, frames=8, size=size, tokenizer="words", tokens=16,
    vocabulary_size=1024,
  )  # fmt: skip
  config.model.perceptual.weights = "none"
  config.model.structure.standardise = True  # objects hardly show in the depth as it is
  config.diffusion.update(prediction="v", schedule="cosine", loss="l2", guidance=4.0)


def demo(config: ConfigDict) -> None:
  """About a quarter of an hour on two CPU cores, all stages."""
  _cater(config, size=64, videos=768)
  config.data.max_bad_fraction = 0.5  # own videos: a few bad ones shall not stop a trial
  model = config.model
  model.autoencoder_frames = 4
  model.image_autoencoder.update(
    channels=16, channel_mult=(1, 2, 3), res_blocks=1, latent_channels=4, groups=8
  )
  model.denoiser.update(
    channels=32,
    channel_mult=(1, 2),
    res_blocks=1,
    attention_downsample=(2,),
    head_channels=32,
    scale_shift_norm=False,
  )
  model.content.update(width=64, image_channels=16, context_width=128, frames=2)
  # Layers and heads are the diffusion's, for who tries it (model.prior.kind).
  model.prior.update(kind="regressor", width=64, layers=4, heads=4)
  config.loss.update(reconstruction="mse", gan_weight=0.0, kl_weight=1e-5)
  schedule = dict(
    optimizer="muon", schedule="cosine", warmup=20, clip_norm=1.0, ema_decay=0.99
  )
  config.optim.autoencoder.update(
    schedule, steps=400, batch=4, learning_rate=5e-3, ema_decay=0.98
  )
  config.optim.content.update(
    steps=180, batch=32, learning_rate=1.5e-3, schedule="cosine", final_fraction=0.05,
    warmup=20, weight_decay=0.01, clip_norm=1.0, ema_decay=0.98,
  )  # fmt: skip
  # Structure has most of the time: its input channels start at zero.
  config.optim.image.update(schedule, steps=20, batch=4, learning_rate=2e-3)
  config.optim.video.update(schedule, steps=40, batch=4, learning_rate=2e-3)
  config.optim.structure.update(schedule, steps=345, batch=4, learning_rate=4e-3)
  config.optim.structure_levels.update(
    schedule, steps=140, batch=4, learning_rate=2e-3
  )
  config.optim.prior.update(
    steps=200, batch=32, learning_rate=1e-3, schedule="cosine", warmup=20,
    clip_norm=1.0, ema_decay=0.98,
  )  # fmt: skip
  config.optim.distill.update(  # for who adds the stage; not tuned
    schedule, steps=200, batch=4, learning_rate=5e-4, ema_decay=0.95
  )
  config.train.update(
    mesh="one",
    latent_cache=True,
    latent_samples=64,
    checkpoint_every=200,
    log_every=25,
    preview_every=0,  # the gallery shows enough, and each preview is a compilation
  )


def gpu(config: ConfigDict) -> None:
  """Minutes on one GPU."""
  _cater(config, size=128, videos=20_000)
  config.data.update(world_mode="v2", tokens=64)
  model = config.model
  model.image_autoencoder.update(
    channels=64, channel_mult=(1, 2, 4), res_blocks=1, latent_channels=4
  )
  model.denoiser.update(
    channels=128,
    channel_mult=(1, 2, 3),
    res_blocks=2,
    attention_downsample=(2, 4),
    head_channels=32,
    scale_shift_norm=False,
  )
  model.content.update(context_width=256, text_layers=2, text_width=128)
  model.prior.update(kind="diffusion", width=256, layers=4, heads=4)
  config.loss.update(gan_weight=0.1, gan_start=5000, kl_weight=1e-6)
  schedule = dict(schedule="cosine", warmup=200, clip_norm=1.0, ema_decay=0.999)
  config.optim.autoencoder.update(schedule, steps=8000, batch=8, learning_rate=4e-4)
  config.optim.content.update(schedule, steps=4000, batch=256, learning_rate=1e-3)
  steps = dict(image=6000, video=8000, structure=6000, structure_levels=6000)
  for stage, count in steps.items():
    config.optim[stage].update(schedule, steps=count, batch=16, learning_rate=3e-4)
  config.optim.prior.update(schedule, steps=4000, batch=256, learning_rate=3e-4)
  config.train.update(latent_cache=True, checkpoint_every=1000, preview_every=5000)
