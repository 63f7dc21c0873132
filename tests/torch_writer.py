# SPDX-License-Identifier: Apache-2.0
"""Writes files in the formats of torch.save, opcode by opcode, without torch.

The opcodes are those of the pickle format's protocol 2 (CPython's pickletools).
"""

import collections
import pathlib
import struct
from typing import Any, NamedTuple
import zipfile

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C


class Global(NamedTuple):
  module: str
  name: str


class Call(NamedTuple):
  function: Any
  arguments: tuple


class New(NamedTuple):
  type: Any
  arguments: tuple


class Build(NamedTuple):
  object: Any
  state: Any


class Persistent(NamedTuple):
  id: tuple


def emit(node: Any) -> bytes:
  """Returns the opcodes that push `node`."""
  match node:
    case Global(module, name):
      return f"c{module}\n{name}\n".encode()
    case Call(function, arguments):
      return emit(function) + emit(arguments) + b"R"
    case New(cls, arguments):
      return emit(cls) + emit(arguments) + b"\x81"
    case Build(target, state):
      return emit(target) + emit(state) + b"b"
    case Persistent(key):
      return emit(key) + b"Q"
    case None:
      return b"N"
    case bool():
      return b"\x88" if node else b"\x89"
    case int():
      body = node.to_bytes(node.bit_length() // 8 + 1, "little", signed=True)
      return b"\x8a" + bytes([len(body)]) + body
    case str():
      return b"X" + struct.pack("<I", len(node.encode())) + node.encode()
    case tuple():
      return b"(" + b"".join(map(emit, node)) + b"t"
    case list():
      return b"](" + b"".join(map(emit, node)) + b"e"
    case dict():
      pairs = b"".join(emit(k) + emit(v) for k, v in node.items())
      start = b"}"
      if isinstance(node, collections.OrderedDict):
        start = emit(Call(Global("collections", "OrderedDict"), ()))
      return start + b"(" + pairs + b"u"
  raise TypeError(type(node))


def pickled(node: Any) -> bytes:
  return b"\x80\x02" + emit(node) + b"."


def storage(key: str, kind: str, numel: int, older: bool, module="torch") -> Persistent:
  tail = (None,) if older else ()
  kind = Global(module, f"{kind}Storage")
  return Persistent(("storage", kind, key, "cpu", numel, *tail))


def tensor(stored: Persistent, shape, strides, offset=0) -> Call:
  function = Global("torch._utils", "_rebuild_tensor_v2")
  hooks = collections.OrderedDict()
  return Call(function, (stored, offset, tuple(shape), tuple(strides), False, hooks))


def contiguous(shape) -> tuple[int, ...]:
  return tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))


def write_zip(path, node, storages: dict[str, bytes], order=b"little", **extra):
  """`storages`: raw bytes by key; `extra`: compression of the members, in tests."""
  with zipfile.ZipFile(path, "w", **extra) as archive:
    archive.writestr("archive/data.pkl", pickled(node))
    if order:
      archive.writestr("archive/byteorder", order)
    for key, raw in storages.items():
      archive.writestr(f"archive/data/{key}", raw)
    archive.writestr("archive/version", b"3\n")


def write_older(path, node, storages: dict[str, tuple[int, bytes]], little=True):
  """`storages`: (number of elements, raw bytes) by key."""
  order = "<" if little else ">"
  machine = {"protocol_version": 1001, "little_endian": little, "type_sizes": {}}
  with open(path, "wb") as file:
    for part in (MAGIC, 1001, machine, node, list(storages)):
      file.write(pickled(part))
    for numel, raw in storages.values():
      file.write(struct.pack(f"{order}q", numel) + raw)


def write_state(path: pathlib.Path, state: dict[str, np.ndarray], older: bool) -> None:
  """Saves float32 arrays by name, as torch.save(state_dict) does."""
  state = {k: np.asarray(v, "<f4", order="C") for k, v in state.items()}
  tree, storages = collections.OrderedDict(), {}
  for i, (name, array) in enumerate(state.items()):
    stored = storage(str(i), "Float", array.size, older)
    tree[name] = tensor(stored, array.shape, contiguous(array.shape))
    raw = array.tobytes()
    storages[str(i)] = (array.size, raw) if older else raw
  (write_older if older else write_zip)(path, tree, storages)
