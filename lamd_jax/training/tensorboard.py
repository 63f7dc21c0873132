# SPDX-License-Identifier: Apache-2.0
"""TensorBoard event files without TensorFlow and without the tensorboard package.

An event file is a sequence of TFRecords, each an `Event` protocol buffer:

  record   length u64, masked crc32c(length) u32, bytes, masked crc32c(bytes) u32
  message  fields, each (number << 3 | wire type) as a varint, then the value

Field numbers are those of tensorflow/core/util/event.proto and
tensorflow/core/framework/summary.proto. A GIF as an image summary plays in the Images
tab.
"""

from __future__ import annotations

from collections.abc import Mapping
import itertools
import os
import socket
import struct
import time

from etils import epath
import numpy as np

_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bit-reversed
_MASK_DELTA = 0xA282EAD8
_SESSION_START = 1  # SessionLog.START: drop events of later steps that came before
_DT_STRING = 7
_COLORSPACE_RGB = 3


def _crc_table() -> list[int]:
  table = []
  for value in range(256):
    for _ in range(8):
      value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
    table.append(value)
  return table


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
  """CRC-32C of `data` (RFC 3720, appendix B.4 has test vectors)."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
  return crc ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
  crc = crc32c(data)
  rotated = ((crc >> 15) | (crc << 17)) & 0xFFFFFFFF
  return struct.pack("<I", (rotated + _MASK_DELTA) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
  """Frames one message as a TFRecord."""
  length = struct.pack("<Q", len(data))
  return length + _masked(length) + data + _masked(data)


def _varint(value: int) -> bytes:
  value &= 0xFFFFFFFFFFFFFFFF  # negative int64: two's complement
  out = bytearray()
  while value > 0x7F:
    out.append(value & 0x7F | 0x80)
    value >>= 7
  return bytes([*out, value])


def _int(field: int, value: int) -> bytes:
  return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
  return _varint(field << 3 | 2) + _varint(len(value)) + value


def _event(step: int, *fields: bytes) -> bytes:
  wall_time = _varint(1 << 3 | 1) + struct.pack("<d", time.time())
  return wall_time + _int(2, step) + b"".join(fields)


def _scalar(tag: str, value: float) -> bytes:
  simple = _varint(2 << 3 | 5) + struct.pack("<f", np.float32(value))
  return _bytes(1, _bytes(1, tag.encode()) + simple)


def _image(tag: str, encoded: bytes, height: int, width: int) -> bytes:
  image = _int(1, height) + _int(2, width) + _int(3, _COLORSPACE_RGB)
  return _bytes(1, _bytes(1, tag.encode()) + _bytes(4, image + _bytes(4, encoded)))


def _text(tag: str, text: str) -> bytes:
  plugin = _bytes(9, _bytes(1, _bytes(1, b"text")))
  shape = _bytes(2, _bytes(2, _int(1, 1)))  # one dimension of size 1
  tensor = _bytes(8, _int(1, _DT_STRING) + shape + _bytes(8, text.encode()))
  return _bytes(1, _bytes(1, tag.encode()) + plugin + tensor)


class EventFile:
  """Appends events to a new file in a folder; one more file for each run."""

  _files = itertools.count()  # two files of one process in one second

  def __init__(self, folder: epath.PathLike):
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = (
      f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}"
      f".{os.getpid()}.{next(self._files)}"
    )
    self._handle = (folder / name).open("wb")
    self._write(_event(0, _bytes(3, b"brain.Event:2")))  # file_version

  def _write(self, event: bytes) -> None:
    self._handle.write(record(event))

  def restart(self, step: int) -> None:
    """Makes readers drop events after `step` that earlier files hold."""
    self._write(_event(step + 1, _bytes(7, _int(1, _SESSION_START))))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    summary = b"".join(_scalar(tag, value) for tag, value in values.items())
    self._write(_event(step, _bytes(5, summary)))

  def image(
    self, step: int, tag: str, encoded: bytes, height: int, width: int
  ) -> None:
    """Adds an encoded image: png, jpeg or gif, the last played as an animation."""
    self._write(_event(step, _bytes(5, _image(tag, encoded, height, width))))

  def text(self, step: int, tag: str, text: str) -> None:
    self._write(_event(step, _bytes(5, _text(tag, text))))

  def flush(self) -> None:
    self._handle.flush()

  def close(self) -> None:
    self._handle.close()
