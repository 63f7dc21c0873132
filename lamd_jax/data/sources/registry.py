# SPDX-License-Identifier: Apache-2.0
"""Where videos come from: the values of `data.source`."""

from __future__ import annotations

from lamd_jax.data.sources import array_record
from lamd_jax.data.sources import bair
from lamd_jax.data.sources import cater_gen
from lamd_jax.data.sources import csv_table
from lamd_jax.data.sources import davis
from lamd_jax.data.sources import folder
from lamd_jax.data.sources import frames
from lamd_jax.data.sources import landscape
from lamd_jax.data.sources import mug
from lamd_jax.data.sources import natops
from lamd_jax.data.sources import procedural
from lamd_jax.data.sources import taichi
from lamd_jax.data.sources import tfds_source
from lamd_jax.data.sources import ucf101

# data.source -> open(data_config, split) -> records.Videos
OPEN = {
  "procedural": procedural.open_split,
  "folder": folder.open_split,
  "frames": frames.open_split,
  "landscape": landscape.open_split,
  "ucf101": ucf101.open_split,
  "taichi": taichi.open_split,
  "bair": bair.open_split,
  "cater_gen": cater_gen.open_split,
  "natops": natops.open_split,
  "mug": mug.open_split,
  "davis": davis.open_split,
  "csv": csv_table.open_split,
  "tfds": tfds_source.open_split,
  "array_record": array_record.open_split,
}

# The sources made of files -> scan(root) -> records.Listing
SCAN = {
  "folder": folder.scan,
  "frames": frames.scan,
  "landscape": landscape.scan,
  "ucf101": ucf101.scan,
  "taichi": taichi.scan,
  "bair": bair.scan,
  "cater_gen": cater_gen.scan,
  "natops": natops.scan,
  "mug": mug.scan,
  "davis": davis.scan,
  "csv": csv_table.scan,
}

# Those whose files can hold many videos: the index has a file's length, not theirs.
MANY = ("bair", "natops")
