# SPDX-License-Identifier: Apache-2.0
"""DAVIS (Pont-Tuset et al. 2017): frames, object masks, and prompts if a file has them.

  JPEGImages/480p/<name>/00000.jpg       or Full-Resolution
  Annotations/480p/<name>/00000.png      palette index = object
  ImageSets/2017/{train,val}.txt         a name a line
  prompts.csv                            ours: video,prompt; further rows, further prompts

A prompt is the caption; a video with several is listed once for each.
"""

from __future__ import annotations

import csv
import io
import pathlib

from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from lamd_jax.data import frame_folder
from lamd_jax.data.records import Item, Listing
from lamd_jax.data.sources import files
from lamd_jax.errors import DataError

PROMPTS = "prompts.csv"
_SIZES = ("480p", "Full-Resolution")  # the first that is there is read
_SPLITS = ("train", "val")
_LARGEST = 1 << 24  # bytes of a list


def resolution(root: pathlib.Path) -> str:
  """Returns the folder below JPEGImages that is read, "" if there is none."""
  found = [name for name in _SIZES if (root / "JPEGImages" / name).is_dir()]
  return found[0] if found else ""


def _text(path: pathlib.Path) -> str:
  if path.stat().st_size > _LARGEST:
    raise DataError(f"{path}: more than {_LARGEST} bytes are not read")
  return path.read_text("utf-8-sig", "replace")


def _split_lists(root: pathlib.Path) -> dict[str, str]:
  found = {}
  for split in _SPLITS:
    path = root / "ImageSets" / "2017" / f"{split}.txt"
    if path.is_file():
      found |= {name: split for name in _text(path).split()}
  return found


def _prompts(root: pathlib.Path) -> dict[str, list[str]]:
  path = root / PROMPTS
  found: dict[str, list[str]] = {}
  if not path.is_file():
    return found
  text = io.StringIO(_text(path), newline="")  # prompts may hold line breaks
  reader = csv.DictReader(text, skipinitialspace=True)
  try:
    if not {"video", "prompt"} <= set(reader.fieldnames or ()):
      raise DataError(f"{path}: its first line must be video,prompt")
    for row in reader:
      if video := (row["video"] or "").strip():
        found.setdefault(video, []).append((row["prompt"] or "").strip())
  except csv.Error as error:
    raise DataError(f"{path}, line {reader.line_num}: {error}") from error
  return found


def scan(root: pathlib.Path) -> Listing:
  """Lists the videos, by the split of 2017, once for each of their prompts."""
  size = resolution(root)
  listed, prompts = _split_lists(root), _prompts(root)
  items, names, notes = [], set(), []
  for folder, _, images in files.walk(root / "JPEGImages" / size) if size else ():
    if not folder or not any(map(frame_folder.is_image, images)):
      continue
    names.add(folder)
    split = listed.get(folder, "unlisted" if listed else "")
    path = f"JPEGImages/{size}/{folder}"
    for i, prompt in enumerate(prompts.get(folder, [""])):
      name = f"{folder}#{i}" if i else folder
      items.append(Item(name, path, "frames", split, caption=prompt))
  if items and not listed:
    notes.append("ImageSets/2017/{train,val}.txt are missing")
  for what, wanted in (("the split lists", listed), (PROMPTS, prompts)):
    if missing := sum(name not in names for name in wanted):
      notes.append(f"{missing} videos of {what} are not there")
  return Listing(items, notes)


def masks(root: pathlib.Path, name: str) -> np.ndarray:
  """Returns the objects [T,H,W] uint8 of video `name`: 0 ground, k object k.

  These are the palette indices of the annotations; their colours mean nothing. Raises
  DataError if there are none or one is no palette image.
  """
  files.check_below(name, str(root))
  folder = root / "Annotations" / resolution(root) / name
  if not folder.is_dir():
    raise DataError(f"{folder} is missing: {name} has no masks")
  found = []
  for image in frame_folder.names(folder):
    with Image.open(folder / image) as picture:
      if picture.mode not in ("P", "L"):
        raise DataError(f"{folder / image}: is {picture.mode}, not a palette image")
      found.append(np.asarray(picture))
  if not found:
    raise DataError(f"{folder} holds no image")
  return np.stack(found)


def open_split(config: ConfigDict, split: str) -> files.FileVideos:
  return files.open_files(config, split, scan)
