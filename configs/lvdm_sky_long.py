# SPDX-License-Identifier: Apache-2.0
"""LVDM long video on Sky Time-lapse (arXiv 2211.13221, section 3.3).

Keyframes, one of 16 frames, follow each other; a second network fills the gaps. Source:
the released configurations sky_pred and sky_interp, whose weights were never published.
There the second network only interpolates; demo and gpu let it go on from frames too,
which --sample.long=autoregressive asks for.

variant  hardware                 wall time  result
paper    8 GPUs of 32 GB or more   not run    not run
gpu      one GPU, procedural sky   not run    not run
demo     2 CPU cores               docs/results.md     docs/results.md

python -m lamd_jax.main --config=configs/lvdm_sky_long.py --config.data.root=/data/sky \
  --config.model.perceptual.weights=lpips_vgg16.safetensors
python -m lamd_jax.main --config=configs/lvdm_sky_long.py:demo
python -m lamd_jax.main --workdir=runs/lvdm_sky_long-demo --mode=sample \
  --sample.long=hierarchical --sample.frames=1024
"""

from lamd_jax import config as config_lib
from lamd_jax import lvdm_variants


def get_config(variant: str = "paper"):
  return lvdm_variants.build(
    "lvdm_sky_long", variant,
    {"paper": paper, "demo": lvdm_variants.demo_long, "gpu": lvdm_variants.gpu_long},
  )  # fmt: skip


def paper(config: config_lib.ConfigDict):
  lvdm_variants.sky_autoencoder(config)
  config.stages = ("autoencoder", "prediction", "interpolation")
  config.diffusion.update(beta_start=0.0015, beta_end=0.0155, loss="l1")
  config.prediction.update(sparse=4, p_prediction=0.5, p_interpolation=0.0)
  config.interpolation.update(latents=5, p_prediction=0.0, p_interpolation=0.9)
  for stage in ("prediction", "interpolation"):
    config.optim[stage].update(
      steps=134_000,  # 2000 epochs of the 1,074 training folders
      batch=16,
      learning_rate=8e-5,
      weight_decay=0.01,
      ema_decay=0.9999,
    )
  config.train.update(mesh="fsdp", remat="names")
