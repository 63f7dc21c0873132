# SPDX-License-Identifier: Apache-2.0
"""MUG facial expressions (Aifanti et al. 2010): `<subject>/<expression>/<take>/*.jpg`.

Some subjects (002, 003, 049) have one more folder between subject and expression. The
split by subject is LFDM's (Ni et al. 2023). The images store no frame rate.
"""

from __future__ import annotations

import pathlib
import re

from ml_collections import ConfigDict

from lamd_jax.data import frame_folder
from lamd_jax.data.records import Item, Listing
from lamd_jax.data.sources import files

# Label i is the i-th of them.
EXPRESSIONS = (
  "anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise",
)  # fmt: skip
SUBJECT = re.compile(r"\d{3}$")
_TRAIN = frozenset(
  "008 017 021 028 030 031 034 036 037 038 039 042 043 044 045 055 060 061 062 063 071"
  " 075 076 077 083 084".split()
)
_TEST = frozenset(
  "001 002 006 007 010 013 014 020 027 032 033 040 046 048 049 052 064 065 066 070 072"
  " 073 074 078 079 082".split()
)


def _split(subject: str) -> str:
  return "train" if subject in _TRAIN else "test" if subject in _TEST else "unlisted"


def scan(root: pathlib.Path) -> Listing:
  """Lists the takes with label, caption and split; each folder is named once."""
  items, other = [], 0
  for folder, _, names in files.walk(root):
    if not any(map(frame_folder.is_image, names)):
      continue
    parts = folder.split("/")
    # subject, perhaps a folder, expression, take
    expression = parts[-2].lower() if len(parts) in (3, 4) else ""
    if not SUBJECT.match(parts[0]) or expression not in EXPRESSIONS:
      other += 1
      continue
    label = EXPRESSIONS.index(expression)
    items.append(Item(folder, folder, "frames", _split(parts[0]), label, expression))
  notes = []
  if other:
    notes.append(f"{other} folders of images are no take of an expression, skipped")
  if left := sum(item.split == "unlisted" for item in items):
    notes.append(f"{left} takes are of subjects in neither split: only in split all")
  return Listing(items, notes)


def open_split(config: ConfigDict, split: str) -> files.FileVideos:
  return files.open_files(config, split, scan)
