# SPDX-License-Identifier: Apache-2.0
"""TFRecord files and the `tf.train.Example` messages in them, read without TensorFlow.

A file is a row of records: length uint64, masked CRC-32C of the length, data, masked
CRC-32C of the data, all little-endian. A message is a row of protobuf fields: a varint
key (field number times 8 plus wire type), then a varint, 8 bytes, 4 bytes, or a length
and that many bytes. Nothing here trusts the file: every length is checked first.
"""

from __future__ import annotations

from collections.abc import Iterator
import functools
import os
import struct
from typing import BinaryIO

import numpy as np

from lamd_jax.errors import DataError

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_MASK = 0xA282EAD8
_LANE = 256  # bytes; a buffer is cut into lanes whose sums are made side by side
LARGEST = 1 << 28  # bytes of a record that is believed
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Feature = list[bytes] | np.ndarray  # bytes_list | float32 | int64


def _table() -> np.ndarray:
  """What one byte does to a sum of 0, [256] uint32."""
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = (table >> 1) ^ np.where(table & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
  return table.astype(np.uint32)


_TABLE = _table()
_NUMBERS = _TABLE.tolist()  # Python's own are faster one by one


def _apply(columns: np.ndarray, sums: np.ndarray) -> np.ndarray:
  """Multiplies sums [N] uint32 by a 32x32 matrix over GF(2), given by its columns."""
  out = np.zeros_like(sums)
  for bit in range(32):
    out ^= np.where((sums >> np.uint32(bit)) & 1, columns[bit], np.uint32(0))
  return out


@functools.cache
def _past(zeros: int) -> np.ndarray:
  """The matrix that takes a sum past `zeros` (a power of two) zero bytes."""
  if zeros == 1:
    units = np.uint32(1) << np.arange(32, dtype=np.uint32)
    return _TABLE[units & 255] ^ (units >> np.uint32(8))
  half = _past(zeros // 2)
  return _apply(half, half)


def crc32c(data: bytes) -> int:
  """Returns the CRC-32C (RFC 3720, B.4) of `data`.

  The sum is linear, so lanes are summed side by side and folded in pairs: the left
  one's sum is taken past as many zeros as the right one has bytes.
  """
  if len(data) < _LANE:  # as the lengths of records are
    total = 0xFFFFFFFF
    for byte in data:
      total = _NUMBERS[(total ^ byte) & 255] ^ (total >> 8)
    return total ^ 0xFFFFFFFF
  lanes = -(-len(data) // _LANE)
  padded = np.zeros(lanes * _LANE, np.uint8)
  # Zeros in front do not change a sum that starts at 0, and a start of all ones is the
  # same as the first four bytes inverted.
  begin = len(padded) - len(data)
  padded[begin:] = np.frombuffer(data, np.uint8)
  padded[begin : begin + 4] ^= 255
  sums = np.zeros(lanes, np.uint32)
  for column in np.ascontiguousarray(padded.reshape(lanes, _LANE).T):
    sums = _TABLE[(sums ^ column) & 255] ^ (sums >> np.uint32(8))
  width = _LANE
  while len(sums) > 1:
    if len(sums) % 2:
      sums = np.concatenate([np.zeros(1, np.uint32), sums])
    sums = _apply(_past(width), sums[0::2]) ^ sums[1::2]
    width *= 2
  return int(sums[0]) ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
  """Returns the sum as a TFRecord stores it: turned by 15 bits and shifted."""
  total = crc32c(data)
  return (((total >> 15) | (total << 17)) + _MASK) & 0xFFFFFFFF


def _header(file: BinaryIO, where: str) -> int | None:
  """Returns the length of the record that begins here, None at the end of the file."""
  header = file.read(12)
  if not header:
    return None
  if len(header) < 12:
    raise DataError(f"{where} is cut off")
  length, check = struct.unpack("<QI", header)
  if masked(header[:8]) != check:
    raise DataError(f"{where}: the checksum of its length is wrong")
  if length > LARGEST:
    raise DataError(f"{where} has {length} bytes, at most {LARGEST} are read")
  return length


def offsets(path: str | os.PathLike[str]) -> tuple[list[int], str]:
  """Returns where the records begin, in bytes, and what ends the file early, if anything.

  Only lengths are read. A record that is cut off is left out.
  """
  found = []
  end = os.path.getsize(path)
  with open(path, "rb") as file:
    while True:
      offset = file.tell()
      try:
        length = _header(file, f"record {len(found)}")
      except DataError as error:
        return found, str(error)
      if length is None:
        return found, ""
      if offset + 16 + length > end:
        return found, f"record {len(found)} is cut off"
      found.append(offset)
      file.seek(offset + 16 + length)


def read(file: BinaryIO, offset: int, *, check: bool) -> bytes:
  """Returns the record at `offset`; `check` sums it up. Raises DataError."""
  where = f"record at byte {offset}"
  file.seek(offset)
  length = _header(file, where)
  data = file.read(length or 0)
  tail = file.read(4)
  if length is None or len(data) < length or len(tail) < 4:
    raise DataError(f"{where} is cut off")
  if check and masked(data) != struct.unpack("<I", tail)[0]:
    raise DataError(f"{where}: the checksum of its data is wrong")
  return data


def _varint(data: memoryview, at: int) -> tuple[int, int]:
  value = 0
  for shift in range(0, 70, 7):
    if at >= len(data):
      break
    byte = data[at]
    value |= (byte & 127) << shift
    at += 1
    if byte < 128:
      return value & (2**64 - 1), at
  raise DataError("message holds a number that does not end")


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
  """Yields (number, wire type, value) of a message."""
  at = 0
  while at < len(data):
    key, at = _varint(data, at)
    wire = key & 7
    if wire == _VARINT:
      value, at = _varint(data, at)
      yield key >> 3, wire, value
      continue
    if wire == _BYTES:
      length, at = _varint(data, at)
    elif wire in (_FIXED32, _FIXED64):
      length = 4 if wire == _FIXED32 else 8
    else:
      raise DataError(f"message holds wire type {wire}, which no Example has")
    if at + length > len(data):
      raise DataError(f"message names {length} bytes, {len(data) - at} are left")
    yield key >> 3, wire, data[at : at + length]
    at += length


def _feature(data: memoryview) -> Feature:
  """Field 1 holds bytes, 2 floats, 3 integers, each a list in its own field 1."""
  for kind, _, inner in _fields(data):
    if not isinstance(inner, memoryview):
      continue
    items = [(wire, value) for number, wire, value in _fields(inner) if number == 1]
    if kind == 1:
      return [bytes(value) for wire, value in items if wire == _BYTES]
    if kind == 2:
      # Packed, or one field a number: the bytes are the same, end to end.
      packed = b"".join(value for wire, value in items if wire in (_BYTES, _FIXED32))
      if len(packed) % 4:
        raise DataError(f"message holds {len(packed)} bytes of floats")
      return np.frombuffer(packed, "<f4")
    if kind == 3:
      numbers = []
      for wire, value in items:
        if wire == _VARINT:
          numbers.append(value)
        at = 0
        while wire == _BYTES and at < len(value):
          number, at = _varint(value, at)
          numbers.append(number)
      return np.array(numbers, np.uint64).astype(np.int64)
  return []


def example(data: bytes, wanted: frozenset[str] | None = None) -> dict[str, Feature]:
  """Returns the features of an Example by name, only those `wanted` if they are given.

  A SequenceExample gives its context, whose field has the same number. Raises DataError.
  """
  found: dict[str, Feature] = {}
  for number, wire, features in _fields(memoryview(data)):
    if number != 1 or wire != _BYTES:
      continue
    for entry_number, entry_wire, entry in _fields(features):
      if entry_number != 1 or entry_wire != _BYTES:
        continue
      parts = {n: value for n, w, value in _fields(entry) if w == _BYTES}
      name = bytes(parts.get(1, b"")).decode("utf-8", "replace")
      if 2 in parts and (wanted is None or name in wanted):
        found[name] = _feature(parts[2])
  return found
