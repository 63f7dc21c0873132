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
    case float():
      return b"G" + struct.pack(">d", node)
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


_KINDS = {"f4": "Float", "f8": "Double", "f2": "Half", "i4": "Int", "i8": "Long"}


class Tensors:
  """Collects storages while tensors are named; one array is one storage."""

  def __init__(self, older: bool):
    self._older = older
    self._stored = {}  # id -> (array, what stands for it)
    self.storages = {}

  def __call__(self, array: np.ndarray) -> Call:
    if id(array) not in self._stored:
      kind = _KINDS[array.dtype.str[1:]]
      raw = np.asarray(array, array.dtype.newbyteorder("<"), order="C").tobytes()
      key = str(len(self.storages))
      self.storages[key] = (array.size, raw) if self._older else raw
      place = storage(key, kind, array.size, self._older)
      node = tensor(place, array.shape, contiguous(array.shape))
      self._stored[id(array)] = array, node
    return self._stored[id(array)][1]

  def named(self, state: dict[str, np.ndarray]) -> collections.OrderedDict:
    return collections.OrderedDict((k, self(v)) for k, v in state.items())

  def write(self, path: pathlib.Path, node: Any) -> None:
    (write_older if self._older else write_zip)(path, node, self.storages)


def write_state(path: pathlib.Path, state: dict[str, np.ndarray], older: bool) -> None:
  """Saves arrays by name, as torch.save(state_dict) does."""
  tensors = Tensors(older)
  tensors.write(path, tensors.named(state))


def write_training(path: pathlib.Path, state: dict[str, np.ndarray]) -> None:
  """Saves a state dict within what PyTorch Lightning saves around it."""
  tensors = Tensors(older=False)
  moments = tensors(np.zeros((3, 2), np.float32))
  callback = Global("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
  score = {"monitor": "val/loss", "best_model_score": moments, "best_model_path": "/x"}
  namespace = New(Global("argparse", "Namespace"), ())
  group = {"lr": 6e-5, "betas": (0.9, 0.999), "amsgrad": False, "params": [0]}
  node = {
    "epoch": 3,
    "global_step": 7,
    "pytorch-lightning_version": "1.8.3",
    "state_dict": tensors.named(state),
    "loops": {"fit_loop": {"state_dict": {}, "current": {"ready": 1}}},
    # Keys were types once and are strings since version 1.6.
    "callbacks": {callback: score, "ModelCheckpoint{'monitor': None}": score},
    "optimizer_states": [
      {"state": {0: {"step": 7, "exp_avg": moments}}, "param_groups": [group]}
    ],
    "lr_schedulers": [],
    "hyper_parameters": Build(namespace, {"base": ["x.yaml"], "lr": 0.1}),
  }
  tensors.write(path, node)
