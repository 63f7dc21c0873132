# SPDX-License-Identifier: Apache-2.0
"""LaMD on CATER-GEN v2: three to eight objects, a caption that names one or two of them.

Source: arXiv 2304.11603; clip length and latent channels are not stated for this data
set, 16 and 3 are ours. `gpu` and `demo` render the world themselves. At the demo's 64
pixels small objects are 2 to 5 pixels wide: it shows that training runs, not more.

variant  hardware                 wall time  result
paper    1, 2, 4, 8 or 16 devices  not run    not run
gpu      one GPU                   not run    not run
demo     2 CPU cores               not run    not run

python -m lamd_jax.main --config=configs/lamd_cater_gen_v2.py --config.data.root=DIR \
  --config.model.perceptual.weights=lpips_vgg16.safetensors
"""

from lamd_jax import lamd_variants


def paper(config):
  lamd_variants.paper(config)
  lamd_variants.paper_text(config)
  config.data.update(source="cater_gen", size=128, frames=16, sampling="linspace")


def get_config(variant: str = "paper"):
  return lamd_variants.build(
    "lamd_cater_gen_v2", variant,
    {
      "paper": paper,
      "demo": lamd_variants.demo_text_v2,
      "gpu": lamd_variants.gpu_text_v2,
    },
  )  # fmt: skip
