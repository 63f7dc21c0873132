# SPDX-License-Identifier: Apache-2.0
"""LaMD on CATER-GEN v1: an image and a caption become a clip (arXiv 2304.11603).

A cone and a small golden sphere; captions say what moves, how and where to. The paper's
data are MAGE's; `gpu` and `demo` render the same world themselves and need no download.
Clip length and latent channels are not stated for this data set: 16 and 3 are ours.

variant  hardware                 wall time  result
paper    1, 2, 4, 8 or 16 devices  not run    not run
gpu      one GPU                   not run    not run
demo     2 CPU cores              12 min     docs/results.md

python -m lamd_jax.main --config=configs/lamd_cater_gen_v1.py:demo
python -m lamd_jax.main --workdir=runs/lamd_cater_gen_v1-demo --mode=sample \
  --sample.text="the cone is sliding to (2, -1)." --sample.image=FILE
"""

from lamd_jax import lamd_variants


def paper(config):
  lamd_variants.paper(config)
  lamd_variants.paper_text(config)
  config.data.update(source="cater_gen", size=128, frames=16, sampling="linspace")


def get_config(variant: str = "paper"):
  return lamd_variants.build(
    "lamd_cater_gen_v1", variant,
    {
      "paper": paper, "demo": lamd_variants.demo_text, "gpu": lamd_variants.gpu_text
    },
  )  # fmt: skip
