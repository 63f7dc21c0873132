# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Datasets without TensorFlow, through `tfds.data_source`.

The data set must be prepared in a random-access format (ArrayRecord) and have a feature
of uint8 videos [T,H,W,3], or be a sequence of images. `data.root`, if given, is the TFDS
data_dir. Of the two cameras of bair_robot_pushing_small `data.camera` chooses one.
"""

from __future__ import annotations

import hashlib
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from lamd_jax.errors import DataError


class TfdsVideos:
  """`records.Videos` of one split."""

  fps = 0.0  # TFDS stores none

  def __init__(self, source: Any, feature: str, where: str):
    self.where = where
    self._source, self._feature = source, feature
    length = source.dataset_info.features.get_tensor_info()[feature].shape[0]
    labelled = "label" in source.dataset_info.features
    if length is not None and not labelled:
      self.n_frames = np.full(len(source), length, np.int32)
      self.labels = None
      return
    logging.info("%s: reading %d examples once for lengths and labels", where, len(source))
    lengths, labels = [], []
    for i in range(len(source)):
      example = source[i]
      lengths.append(len(example[feature]))
      labels.append(int(np.asarray(example["label"]).flat[0]) if labelled else -1)
    self.n_frames = np.array(lengths, np.int32)
    self.labels = np.array(labels, np.int32) if labelled else None

  def name(self, video: int) -> str:
    return f"{self.where}[{video}]"

  def error(self, video: int) -> str:
    return f"{self.name(video)} has no frame"

  def caption(self, video: int) -> str:
    caption = self._source[video].get("caption", b"")
    return caption.decode("utf-8", "replace") if isinstance(caption, bytes) else caption

  def digest(self) -> str:
    info = self._source.dataset_info
    text = f"{info.full_name} {self.where} {self._feature} {len(self._source)}"
    return hashlib.sha256(text.encode()).hexdigest()

  def read(self, video: int, frames: np.ndarray, size: int) -> np.ndarray:
    del size
    return np.asarray(self._source[video][self._feature])[frames]


def _video_feature(features: Any, name: str, camera: str) -> str:
  """Returns the name of the feature that holds videos."""
  # Of tensors, not of features: a sequence of images has its length only there.
  found = [
    key for key, tensor in features.get_tensor_info().items()
    if not isinstance(tensor, dict) and len(tensor.shape or ()) == 4
    and tensor.shape[-1] == 3 and tensor.np_dtype == np.uint8
  ]  # fmt: skip
  if not found:
    raise DataError(
      f"tfds:{name} has no feature of uint8 videos [T,H,W,3], but {list(features)}"
    )
  liked = [key for key in ("video", f"image_{camera}") if key in found]
  return [*liked, *found][0]


def open_split(config: ConfigDict, split: str) -> TfdsVideos:
  # Imported here: it takes seconds, and only this source needs it.
  import tensorflow_datasets as tfds

  if not config.name:
    raise DataError("data.source=tfds needs --config.data.name=NAME")
  where = f"tfds:{config.name} ({split})"
  try:
    source = tfds.data_source(config.name, split=split, data_dir=config.root or None)
  except Exception as error:  # tfds raises many kinds, some of many lines
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    raise DataError(f"{where}: {type(error).__name__}: {first}") from error
  features = source.dataset_info.features
  feature = _video_feature(features, config.name, config.camera)
  return TfdsVideos(source, feature, where)
