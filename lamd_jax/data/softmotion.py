# SPDX-License-Identifier: Apache-2.0
"""The TFRecord files of BAIR robot pushing (softmotion30_44k): 30 raw frames a record.

Key `{t}/{camera}/encoded` is frame t, 64x64x3 bytes as they are, not PNG. A file counts
as one long video whose frame 30 k + t is frame t of record k.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import Any

import numpy as np

from lamd_jax.data import tfrecord
from lamd_jax.errors import DataError

STEPS = 30  # frames of a record
SIZE = 64  # pixels
# Kind of an item -> what the camera is called in the keys.
CAMERAS = {"softmotion_aux1": "image_aux1", "softmotion_main": "image_main"}


def _key(step: int, camera: str) -> str:
  return f"{step}/{camera}/encoded"


def _frame(features: dict[str, tfrecord.Feature], key: str) -> np.ndarray:
  value = features.get(key)
  if not isinstance(value, list) or len(value) != 1:
    raise DataError(f"has no {key}")
  if len(value[0]) != SIZE * SIZE * 3:
    raise DataError(f"{key} has {len(value[0])} bytes, {SIZE}x{SIZE}x3 are expected")
  return np.frombuffer(value[0], np.uint8).reshape(SIZE, SIZE, 3)


def probe(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Checks every sum and frame of both cameras; returns fields of an index entry.

  `keyframes` are (first frame, byte) of all records. Raises DataError, also where a
  record has other than 30 steps.
  """
  begins, damage = tfrecord.offsets(path)
  if damage:
    raise DataError(damage)
  if not begins:
    raise DataError("holds no record")
  with open(path, "rb") as file:
    for number, offset in enumerate(begins):
      try:
        features = tfrecord.example(tfrecord.read(file, offset, check=True))
        for camera in CAMERAS.values():
          for step in range(STEPS):
            _frame(features, _key(step, camera))
          if _key(STEPS, camera) in features:
            raise DataError(f"has more than {STEPS} steps")
      except DataError as error:
        raise DataError(f"record {number}: {error}") from error
  keyframes = tuple((STEPS * k, offset) for k, offset in enumerate(begins))
  return {"n_frames": STEPS * len(begins), "height": SIZE, "width": SIZE,
          "keyframes": keyframes}  # fmt: skip


def read(
  path: str | os.PathLike[str],
  frames: Sequence[int],
  kind: str,
  keyframes: Sequence[tuple[int, int]],
) -> np.ndarray:
  """Returns frames [T,64,64,3] uint8 of one record, of the camera of `kind`.

  The sum over the data was checked when the index was built and is not made again: it
  costs more than all the rest. Raises DataError.
  """
  records = {int(frame) // STEPS for frame in frames}
  if len(records) != 1:
    raise DataError(f"frames {frames[0]} to {frames[-1]} lie in {len(records)} records")
  camera = CAMERAS[kind]
  keys = [_key(int(frame) % STEPS, camera) for frame in frames]
  with open(path, "rb") as file:
    data = tfrecord.read(file, keyframes[records.pop()][1], check=False)
  features = tfrecord.example(data, frozenset(keys))
  return np.stack([_frame(features, key) for key in keys])
