# SPDX-License-Identifier: Apache-2.0
"""LVDM short video on Sky Time-lapse, 16 frames of 256x256 (arXiv 2211.13221).

Source: the released configuration of the authors' code. Its epochs are turned into
steps with the 1,074 training folders that cINN's public list counts.

variant  hardware                 wall time  result
paper    32 GPUs of 32 GB or more  not run    not run
gpu      one GPU, procedural sky   not run    not run
demo     2 CPU cores               docs/results.md     27.2 dB reconstruction; docs/results.md

On 32 devices say --config.optim.autoencoder.batch=32
--config.optim.autoencoder.accumulate=1; as written the batches divide over 8 at most.

python -m lamd_jax.main --config=configs/lvdm_sky.py --config.data.root=/data/sky \
  --config.model.perceptual.weights=lpips_vgg16.safetensors
python -m lamd_jax.main --config=configs/lvdm_sky.py:demo
"""

from lamd_jax import config as config_lib
from lamd_jax import lvdm_variants


def get_config(variant: str = "paper"):
  return lvdm_variants.build(
    "lvdm_sky", variant,
    {"paper": paper, "demo": lvdm_variants.demo, "gpu": lvdm_variants.gpu},
  )  # fmt: skip


def paper(config: config_lib.ConfigDict):
  lvdm_variants.sky_autoencoder(config)
  config.diffusion.update(beta_start=0.0015, beta_end=0.0155, loss="l1")
  config.optim.diffusion.update(
    steps=11_200,  # 2000 epochs
    batch=192,
    accumulate=2,
    learning_rate=6e-5,
    weight_decay=0.01,
    ema_decay=0.9999,
  )
  config.train.update(mesh="fsdp", remat="names")
