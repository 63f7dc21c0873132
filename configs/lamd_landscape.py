# SPDX-License-Identifier: Apache-2.0
"""LaMD on Landscape (Sky Time-lapse): one image becomes 32 frames (arXiv 2304.11603).

The paper's: 128x128, a motion map of 32x32x3, beta 1e-2. Content is attended to in squares
of 2x2 and joined on channels. `gpu` and `demo` animate the procedural sky, 16 frames.

variant  hardware                 wall time  result
paper    1, 2, 4, 8 or 16 devices  not run    not run
gpu      one GPU                   not run    not run
demo     2 CPU cores               not run    not run

python -m lamd_jax.main --config=configs/lamd_landscape.py --config.data.root=DIR \
  --config.model.perceptual.weights=lpips_vgg16.safetensors
"""

from lamd_jax import lamd_variants


def paper(config):
  lamd_variants.paper(config)
  config.data.update(source="landscape", size=128, frames=32, flip=True)
  config.model.motion.content_pool = 2


def get_config(variant: str = "paper"):
  return lamd_variants.build(
    "lamd_landscape", variant,
    {
      "paper": paper, "demo": lamd_variants.demo_image, "gpu": lamd_variants.gpu_image
    },
  )  # fmt: skip
