# SPDX-License-Identifier: Apache-2.0
"""LaMD on MUG facial expressions: an image and a class become a clip (arXiv 2304.11603).

The paper's: 128x128 (256x256 as well), seven expressions; clip length and latent channels
are not stated, 16 and 3 are ours; colours are jittered as LFDM does on this set. `gpu`
and `demo` label procedural clips by what moves and how: the cone or the snitch, sliding,
rotating, carried or put over the other.

variant  hardware                 wall time  result
paper    1, 2, 4, 8 or 16 devices  not run    not run
gpu      one GPU                   not run    not run
demo     2 CPU cores               not run    not run

python -m lamd_jax.main --config=configs/lamd_mug.py --config.data.root=DIR \
  --config.model.perceptual.weights=lpips_vgg16.safetensors

NATOPS, whose 24 gestures are trained alike: --config.data.source=natops
--config.data.resize=natops --config.model.motion.num_classes=24
"""

from lamd_jax import lamd_variants


def paper(config):
  lamd_variants.paper(config)
  config.data.update(
    source="mug", size=128, frames=16, color_jitter=(0.25, 0.25, 0.25, 0.04)
  )
  config.model.motion.update(content_cond="concat", num_classes=7)
  # The cache keeps what it drew: sixteen windows and colours of each take.
  config.train.latent_windows = 16


def get_config(variant: str = "paper"):
  return lamd_variants.build(
    "lamd_mug", variant,
    {
      "paper": paper, "demo": lamd_variants.demo_class, "gpu": lamd_variants.gpu_class
    },
  )  # fmt: skip
