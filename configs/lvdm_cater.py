# SPDX-License-Identifier: Apache-2.0
"""LVDM text-to-video on the captioned procedural world, no download.

A cone and a small golden sphere; captions say what moves, how and where to. The text
encoder is small and learns with the denoiser. No paper has these numbers: the variants
are ours, on blocks of LVDM's text-to-video model (arXiv 2211.13221).

variant  hardware                 wall time  result
gpu      one GPU                   not run    not run
demo     2 CPU cores               18 min     docs/results.md

python -m lamd_jax.main --config=configs/lvdm_cater.py:demo
python -m lamd_jax.main --workdir=runs/lvdm_cater-demo --mode=sample \
  --sample.text="the cone is sliding to (2, -1)."
"""

from lamd_jax import lvdm_variants


def get_config(variant: str = "demo"):
  return lvdm_variants.build(
    "lvdm_cater", variant,
    {"demo": lvdm_variants.demo_text, "gpu": lvdm_variants.gpu_text},
  )  # fmt: skip
