# SPDX-License-Identifier: Apache-2.0
"""Gen-1 on the captioned procedural world, no download.

A cone of any colour and material and a small golden sphere; captions say what is there
and not what moves. Depth is the world's own, the content encoder a small one that is
trained first. No paper has these numbers: the variants are ours, on blocks of Gen-1
(arXiv 2302.03011).

variant  hardware                 wall time  result
gpu      one GPU                   not run    not run
demo     2 CPU cores              13 min     docs/results.md

python -m lamd_jax.main --config=configs/gen1_cater.py:demo
python -m lamd_jax.main --workdir=runs/gen1_cater-demo --mode=sample \
  --sample.text="a medium red metal cone and the snitch."
"""

from lamd_jax import gen1_variants


def get_config(variant: str = "demo"):
  return gen1_variants.build(
    "gen1_cater", variant, {"demo": gen1_variants.demo, "gpu": gen1_variants.gpu}
  )
