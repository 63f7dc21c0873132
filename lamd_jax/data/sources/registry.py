# SPDX-License-Identifier: Apache-2.0
"""Where videos come from: the values of `data.source`."""

from __future__ import annotations

from lamd_jax.data.sources import array_record
from lamd_jax.data.sources import csv_table
from lamd_jax.data.sources import folder
from lamd_jax.data.sources import frames
from lamd_jax.data.sources import procedural
from lamd_jax.data.sources import taichi
from lamd_jax.data.sources import tfds_source
from lamd_jax.data.sources import ucf101

# data.source -> open(data_config, split) -> records.Videos
OPEN = {
  "procedural": procedural.open_split,
  "folder": folder.open_split,
  "frames": frames.open_split,
  "ucf101": ucf101.open_split,
  "taichi": taichi.open_split,
  "csv": csv_table.open_split,
  "tfds": tfds_source.open_split,
  "array_record": array_record.open_split,
}

# The sources made of files -> scan(root) -> records.Listing
SCAN = {
  "folder": folder.scan,
  "frames": frames.scan,
  "ucf101": ucf101.scan,
  "taichi": taichi.scan,
  "csv": csv_table.scan,
}
