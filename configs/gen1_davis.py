# SPDX-License-Identifier: Apache-2.0
"""Gen-1 (Esser et al., arXiv 2302.03011), 8 frames of 256x256.

Networks of Stable Diffusion 1's size. The paper trained on 240M images and 6.4M clips
of its own and was evaluated on DAVIS and stock footage. DAVIS is what is named here, as
the set to edit; for training give a folder or a csv of videos:
--config.data.source=folder --config.data.root=DIR. Networks that are frozen come from
files, as does the image model that training starts from; batch sizes and learning rates
are ours.

variant  hardware                 wall time  result
paper    not stated                not run    not run
gpu      as gen1_cater.py:gpu
demo     as gen1_cater.py:demo

python -m lamd_jax.main --config=configs/gen1_davis.py --config.data.root=/data/DAVIS \
  --config.model.autoencoder_weights=sd_vae.safetensors \
  --config.model.denoiser_weights=sd_unet.safetensors \
  --config.model.structure.depth_weights=dpt_large.safetensors \
  --config.model.content.image_weights=clip_vit_l_14_image.safetensors \
  --config.model.content.text_weights=clip_vit_l_14_text.safetensors \
  --config.data.vocabulary=merges.txt
"""

from lamd_jax import gen1_variants


def paper(config):
  gen1_variants.paper(config)
  config.data.update(source="davis", eval_split="val", stride=1)


def get_config(variant: str = "paper"):
  return gen1_variants.build(
    "gen1_davis", variant,
    {"paper": paper, "demo": gen1_variants.demo, "gpu": gen1_variants.gpu},
  )  # fmt: skip
