# SPDX-License-Identifier: Apache-2.0
"""LVDM on a folder of your own: nothing but the folder is said.

Source, size, length and stride of the clips, and whether captions are learnt, are
chosen from what the folder holds and explained before training (lamd_jax/own_data.py);
what is typed beside it stays as typed.

variant  hardware     wall time  result
demo     2 CPU cores  not timed  depends on the videos
gpu      one GPU      not run    not run

python -m lamd_jax.main --config=configs/own_videos.py --config.data.root=DIR
python -m lamd_jax.main --config=configs/own_videos.py:gpu --config.data.root=DIR
"""

from lamd_jax import config as config_lib
from lamd_jax import lvdm_variants


def get_config(variant: str = "demo"):
  config = lvdm_variants.build(
    "own_videos", variant, {"demo": lvdm_variants.demo, "gpu": lvdm_variants.gpu}
  )
  _own(config)
  return config


def _own(config: config_lib.ConfigDict):
  config.data.source = "folder"
  config.data.choose = True
  config.data.max_bad_fraction = 0.5  # a few bad files are no reason to stop
