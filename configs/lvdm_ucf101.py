# SPDX-License-Identifier: Apache-2.0
"""LVDM short video on UCF-101, 16 frames of 256x256 (arXiv 2211.13221).

Source: the released configuration of the authors' code; its epochs are turned into
steps with the data set's 13,320 videos (the configuration trains on both splits).

variant  hardware                  wall time  result
paper    32 GPUs of 32 GB or more  not run    not run
gpu      as lvdm_sky.py:gpu        not run    not run
demo     as lvdm_sky.py:demo       see there  see there

On 32 devices say --config.optim.autoencoder.batch=32
--config.optim.autoencoder.accumulate=1; as written the batches divide over 8 at most.

python -m lamd_jax.main --config=configs/lvdm_ucf101.py --config.data.root=/data/UCF-101 \
  --config.model.perceptual.weights=lpips_vgg16.safetensors
"""

from lamd_jax import config as config_lib
from lamd_jax import lvdm_variants


def get_config(variant: str = "paper"):
  return lvdm_variants.build(
    "lvdm_ucf101", variant,
    {"paper": paper, "demo": lvdm_variants.demo, "gpu": lvdm_variants.gpu},
  )  # fmt: skip


def paper(config: config_lib.ConfigDict):
  data, optim = config.data, config.optim
  data.source = "ucf101"
  data.split = "all"
  data.resize = "squash"  # the release decodes straight to 256x256
  data.fps = 25.0

  config.loss.reconstruction = "l1"
  optim.autoencoder.update(
    steps=832_000,  # 1000 epochs
    batch=16,
    accumulate=2,
    learning_rate=3.6e-5,
    b1=0.5,
    b2=0.9,
  )

  config.diffusion.update(beta_start=0.0015, beta_end=0.0155, loss="l1")
  optim.diffusion.update(
    steps=260_000,  # 2500 epochs
    batch=128,
    accumulate=2,
    learning_rate=6e-5,
    weight_decay=0.01,
    ema_decay=0.9999,
  )
  config.train.update(mesh="fsdp", remat="names")
