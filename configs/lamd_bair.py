# SPDX-License-Identifier: Apache-2.0
"""LaMD on BAIR robot pushing: one image becomes 16 frames (arXiv 2304.11603).

The paper's: 64x64, a motion map of 16x16x3, beta 1e-2, a 340M generator with attention to
the content. Content is also joined on channels here, the larger of the open questions.
`gpu` and `demo` animate the procedural sky; an arm that needs no download is
--config.data.world=pushing --config.data.world_mode=push (not run).

variant  hardware                 wall time  result
paper    1, 2, 4, 8 or 16 devices  not run    not run
gpu      one GPU                   not run    not run
demo     2 CPU cores               not run    not run

python -m lamd_jax.main --config=configs/lamd_bair.py --config.data.root=DIR \
  --config.model.perceptual.weights=lpips_vgg16.safetensors
"""

from lamd_jax import lamd_variants


def paper(config):
  lamd_variants.paper(config)
  config.data.update(source="bair", size=64, frames=16)


def get_config(variant: str = "paper"):
  return lamd_variants.build(
    "lamd_bair", variant,
    {
      "paper": paper, "demo": lamd_variants.demo_image, "gpu": lamd_variants.gpu_image
    },
  )  # fmt: skip
