# SPDX-License-Identifier: Apache-2.0
"""LaMD on MUG facial expressions: an image and a class become a clip (arXiv 2304.11603).

The paper's: 128x128 (256x256 as well), seven expressions; clip length and latent channels
are not stated, 16 and 3 are ours. `gpu` and `demo` label procedural clips by what moves
and how: the cone or the snitch, sliding, rotating, carried or put over the other.

variant  hardware                 wall time  result
paper    6 RTX 3090 (paper)        not run    not run
gpu      one GPU                   not run    not run
demo     2 CPU cores               not run    not run

python -m lamd_jax.main --config=configs/lamd_mug.py --config.data.root=DIR \
  --config.model.perceptual.weights=lpips_vgg16.safetensors
"""

from lamd_jax import lamd_variants


def paper(config):
  lamd_variants.paper(config)
  config.data.update(source="mug", size=128, frames=16)
  config.model.motion.update(content_cond="concat", num_classes=7)


def get_config(variant: str = "paper"):
  return lamd_variants.build(
    "lamd_mug", variant,
    {
      "paper": paper, "demo": lamd_variants.demo_class, "gpu": lamd_variants.gpu_class
    },
  )  # fmt: skip
