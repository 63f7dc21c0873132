# SPDX-License-Identifier: Apache-2.0
"""NATOPS aircraft handling signals (Song et al. 2011): 24 gestures by 20 subjects.

  gestureGG/gGGsSS.avi   20 repetitions in a file, 20 frames a second, 320x240
  segmentation.txt       which frames they are
  or gGGsSSpPP/*.png     cut out, one folder a repetition

The split by subject is LFDM's (Ni et al. 2023); it leaves subject 1 out. Left and right
are different gestures, so clips are never mirrored. `--config.data.resize=natops` crops as
LFDM does.
"""

from __future__ import annotations

import pathlib
import re

from ml_collections import ConfigDict

from lamd_jax.data import frame_folder
from lamd_jax.data.records import Item, Listing
from lamd_jax.data.sources import files
from lamd_jax.errors import DataError

SEGMENTS = "segmentation.txt"
# By number: the files do not name them.
NAMES = (
  "i have command", "all clear", "not clear", "spread wings", "fold wings", "lock wings",
  "up hook", "down hook", "remove tiedowns", "remove chocks", "insert chocks",
  "move ahead", "turn left", "turn right", "next marshaller", "slow down", "stop",
  "nosegear steering", "hot brakes", "brakes on", "brakes off", "install tiedowns",
  "fire", "cut engine",
)  # fmt: skip
_TRAIN = frozenset((3, 4, 8, 9, 12, 13, 15, 17, 19, 20))
_TEST = frozenset((2, 5, 6, 7, 10, 11, 14, 16, 18))
_FILE = re.compile(r"g(\d\d)s(\d\d)\.avi$")
_FOLDER = re.compile(r"g(\d\d)s(\d\d)p(\d\d)$")
_GESTURE = re.compile(r"\d+\s*,\s*\d+\s*,\s*\d+\s*$")
_REPETITION = re.compile(r"(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*$")
_LONGEST = 10**6  # frames: a number beyond is a misprint

Segments = dict[tuple[int, int], list[tuple[int, int, int]]]


def segments(path: pathlib.Path) -> Segments:
  """Returns (gesture, subject) -> [(repetition, first frame, frames)], frames from 0.

  `// Subject` opens a subject; the n-th line of three numbers in it is gesture n; then
  come its repetitions `k:first,last`, counted from 1, both ends included. Raises
  DataError, with the line.
  """
  found: Segments = {}
  subject = gesture = 0
  text = path.read_text("utf-8", "replace")
  for number, line in enumerate(map(str.strip, text.splitlines()), 1):
    if line.startswith("// Subject"):
      subject, gesture = subject + 1, 0
    elif _GESTURE.match(line):
      gesture += 1
    elif match := _REPETITION.match(line):
      repetition, first, last = map(int, match.groups())
      if not subject or not gesture or not 1 <= first <= last <= _LONGEST:
        raise DataError(
          f"{path}, line {number}: {line!r}: expected k:first,last with 1 <= first <="
          " last, under a subject and a gesture"
        )
      rows = found.setdefault((gesture, subject), [])
      rows.append((repetition, first - 1, last - first + 1))
  return found


def _item(path: str, kind: str, gesture: int, subject: int) -> Item:
  train, test = subject in _TRAIN, subject in _TEST
  split = "train" if train else "test" if test else "unlisted"
  known = 1 <= gesture <= len(NAMES)
  return Item(path, path, kind, split, gesture - 1 if known else -1,
              NAMES[gesture - 1] if known else "")  # fmt: skip


def scan(root: pathlib.Path) -> Listing:
  """Lists the repetitions; folders of images count only where there is no file."""
  cut, whole = [], []
  for folder, _, names in files.walk(root):
    leaf = folder.rsplit("/", 1)[-1]
    if (match := _FOLDER.match(leaf)) and any(map(frame_folder.is_image, names)):
      cut.append(_item(folder, "frames", int(match[1]), int(match[2])))
    for name in names:
      if match := _FILE.match(name):
        path = f"{folder}/{name}" if folder else name
        whole.append((path, int(match[1]), int(match[2])))
  if not whole:
    return Listing(cut, _notes(cut, 0))
  if not (root / SEGMENTS).is_file():
    raise DataError(
      f"{root}/{SEGMENTS} is missing: it says which frames of a file are one gesture;"
      " it comes with the videos"
    )
  known = segments(root / SEGMENTS)
  items, bare = [], 0
  for path, gesture, subject in whole:
    rows = known.get((gesture, subject), [])
    bare += not rows
    for repetition, start, count in rows:
      item = _item(path, "video", gesture, subject)
      name = f"{path}#p{repetition:02d}"
      items.append(item._replace(id=name, start=start, count=count))
  return Listing(items, _notes(items, bare))


def _notes(items: list[Item], bare: int) -> list[str]:
  notes = [f"{bare} files have no line in {SEGMENTS}, skipped"] if bare else []
  if left := sum(item.split == "unlisted" for item in items):
    notes.append(f"{left} clips are of subjects in neither split: only in split all")
  return notes


def open_split(config: ConfigDict, split: str) -> files.FileVideos:
  return files.open_files(config, split, scan)
