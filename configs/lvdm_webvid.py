# SPDX-License-Identifier: Apache-2.0
"""LVDM text-to-video, 16 frames of 256x256, on captioned videos of a csv (WebVid's).

Source: the released t2v configuration (arXiv 2211.13221) for networks and schedule: the
autoencoder of Stable Diffusion 1 frame by frame, CLIP's text tower, both frozen. Its
training was never released; batch, steps and learning rate are those of the short
models and a guess for this size. The data set is withdrawn; own videos will do, see
python -m lamd_jax.tools.doctor DIR.

variant  hardware                 wall time  result
paper    32 GPUs of 80 GB          not run    not run
gpu      as lvdm_cater.py:gpu
demo     as lvdm_cater.py:demo

python -m lamd_jax.main --config=configs/lvdm_webvid.py --config.data.root=/data/webvid \
  --config.model.autoencoder_weights=sd_vae.safetensors \
  --config.model.text.weights=clip_vit_l_14_text.safetensors \
  --config.data.vocabulary=merges.txt
python -m lamd_jax.main --config=configs/lvdm_webvid.py:demo
"""

from lamd_jax import config as config_lib
from lamd_jax import lvdm_variants


def get_config(variant: str = "paper"):
  return lvdm_variants.build(
    "lvdm_webvid", variant,
    {"paper": paper, "demo": lvdm_variants.demo_text, "gpu": lvdm_variants.gpu_text},
  )  # fmt: skip


def paper(config: config_lib.ConfigDict):
  config.stages = ("diffusion",)
  config.data.update(source="csv", resize="crop", fps=8.0)
  config.data.update(tokenizer="clip", tokens=77)
  model = config.model
  model.update(first_stage="image", latent_scale=0.18215, latent_shift=0.0)
  model.text.update(encoder="clip", width=768, layers=12, heads=12)
  model.denoiser.update(
    channels=320,
    channel_mult=(1, 2, 4, 4),
    res_blocks=2,
    attention_downsample=(1, 2, 4),
    heads=8,
    temporal_length=16,
    scale_shift_norm=False,
    transformer=True,
  )
  config.diffusion.update(beta_start=0.00085, beta_end=0.012, loss="l1")
  config.optim.diffusion.update(
    steps=100_000,
    batch=64,
    accumulate=2,
    learning_rate=6e-5,
    weight_decay=0.01,
    ema_decay=0.9999,
  )
  config.train.update(mesh="fsdp", remat="names")
