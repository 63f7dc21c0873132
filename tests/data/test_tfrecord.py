# SPDX-License-Identifier: Apache-2.0
"""TFRecord framing and Example messages, against a writer of the test's own."""

import io
import struct

import numpy as np
import pytest

from lamd_jax.data import tfrecord
from lamd_jax.errors import DataError


def slow_crc32c(data):
  """Bit by bit, as the polynomial's definition has it."""
  total = 0xFFFFFFFF
  for byte in data:
    total ^= byte
    for _ in range(8):
      total = (total >> 1) ^ (0x82F63B78 if total & 1 else 0)
  return total ^ 0xFFFFFFFF


def record(data):
  """A framed record, its sums by the slow way."""

  def masked(part):
    total = slow_crc32c(part)
    return struct.pack("<I", (((total >> 15) | (total << 17)) + 0xA282EAD8) % 2**32)

  length = struct.pack("<Q", len(data))
  return length + masked(length) + data + masked(data)


def varint(n):
  out = bytearray()
  while n > 127:
    out.append(n & 127 | 128)
    n >>= 7
  return bytes([*out, n])


def field(number, payload):
  return varint(number << 3 | 2) + varint(len(payload)) + payload


def example(features):
  """tf.train.Example of {name: [bytes] | float32 array | list of int}."""
  entries = b""
  for name, value in features.items():
    if isinstance(value, np.ndarray):
      feature = field(2, field(1, value.astype("<f4").tobytes()))
    elif value and isinstance(value[0], bytes):
      feature = field(1, b"".join(field(1, item) for item in value))
    else:
      packed = b"".join(varint(n % 2**64) for n in value)
      feature = field(3, field(1, packed))
    entries += field(1, field(1, name.encode()) + field(2, feature))
  return field(1, entries)


def test_crc32c_of_published_vectors():
  # RFC 3720, B.4; the last is the customary check value of the polynomial.
  assert tfrecord.crc32c(bytes(32)) == 0x8A9136AA
  assert tfrecord.crc32c(b"\xff" * 32) == 0x62A8AB43
  assert tfrecord.crc32c(bytes(range(32))) == 0x46DD794E
  assert tfrecord.crc32c(b"123456789") == 0xE3069283
  assert tfrecord.crc32c(b"") == 0


@pytest.mark.parametrize("length", [1, 3, 4, 255, 256, 257, 512, 1025, 5000])
def test_crc32c_of_lanes_is_that_of_the_bytes_in_turn(length):
  data = np.random.default_rng(length).bytes(length)
  assert tfrecord.crc32c(data) == slow_crc32c(data)


def test_masked_sum_of_a_known_record():
  # TensorFlow writes the length 0 with these four bytes behind it.
  assert struct.pack("<I", tfrecord.masked(bytes(8))) == bytes.fromhex("29039807")


def test_records_are_found_and_checked(tmp_path):
  parts = [b"one", b"", bytes(3000)]
  path = tmp_path / "x.tfrecords"
  path.write_bytes(b"".join(map(record, parts)))
  begins, damage = tfrecord.offsets(path)
  assert begins == [0, 19, 35] and not damage
  with open(path, "rb") as file:
    assert [tfrecord.read(file, at, check=True) for at in begins] == parts
  path.write_bytes(path.read_bytes()[:-1])
  assert tfrecord.offsets(path) == ([0, 19], "record 2 is cut off")


@pytest.mark.parametrize(
  ("at", "words"),
  [(3, "checksum of its length"), (14, "checksum of its data"), (-2, "its data")],
)
def test_a_flipped_bit_is_named(at, words):
  data = bytearray(record(b"some data"))
  data[at] ^= 4
  with pytest.raises(DataError, match=words):
    tfrecord.read(io.BytesIO(bytes(data)), 0, check=True)


def test_a_huge_length_is_not_believed():
  length = struct.pack("<Q", 1 << 60)
  forged = length + struct.pack("<I", tfrecord.masked(length))
  with pytest.raises(DataError, match="at most"):
    tfrecord.read(io.BytesIO(forged), 0, check=True)


def test_example_of_all_three_kinds():
  features = {
    "a": [b"x", b"\0" * 300],
    "b": np.array([1.5, -2.0], np.float32),
    "c": [3, -1, 2**40],
    "empty": [],
  }
  found = tfrecord.example(example(features))
  assert list(found) == list(features)
  assert found["a"] == features["a"]
  assert np.array_equal(found["b"], features["b"]) and found["b"].dtype == np.float32
  assert found["c"].tolist() == features["c"] and len(found["empty"]) == 0
  assert list(tfrecord.example(example(features), frozenset("b"))) == ["b"]


def test_unpacked_numbers_and_fields_of_a_sequence_example():
  floats = b"".join(b"\x0d" + struct.pack("<f", x) for x in (0.5, 4.0))
  integers = b"\x08\x07" + b"\x08\x01"
  entries = b"".join(
    field(1, field(1, name) + field(2, feature))
    for name, feature in ((b"f", field(2, floats)), (b"i", field(3, integers)))
  )
  # Field 2 of a SequenceExample holds lists by step; they are passed over.
  found = tfrecord.example(field(1, entries) + field(2, b"\x0a\x00"))
  assert found["f"].tolist() == [0.5, 4.0] and found["i"].tolist() == [7, 1]


def test_no_damaged_message_gets_further_than_a_data_error():
  good = example({"a": [b"xyz"], "b": np.ones(2, np.float32), "c": [5]})
  draw = np.random.default_rng(0)
  refused = 0
  for _ in range(500):
    bad = bytearray(good[: draw.integers(1, len(good) + 1)])
    bad[draw.integers(len(bad))] = draw.integers(256)
    try:
      tfrecord.example(bytes(bad))
    except DataError:
      refused += 1
  assert refused > 100
