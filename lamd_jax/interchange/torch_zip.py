# SPDX-License-Identifier: Apache-2.0
"""Reads files of `torch.save` without torch and without running what they ask for.

Two formats, both a pickle that refers to raw arrays ("storages") by key:

  zip     since PyTorch 1.6: members X/data.pkl and X/data/KEY, stored uncompressed
  older   pickles of a magic number, a version, the writer's machine, the object and
          the list of keys; then per key its length (int64) and its bytes

A pickle is a program that may call anything. This one may name the globals listed in
`_GLOBALS`, which stand for small records of ours; arrays are made from the records
afterwards, within checked bounds. Any other global is refused by name, but for those
that a caller lists as `stubs`: they become an `Unknown` that swallows what is done to
it. TorchScript archives are refused: they hold code.
"""

from __future__ import annotations

import collections
from collections.abc import Collection
import io
import os
import pathlib
import pickle
import pickletools
import struct
from typing import Any, BinaryIO
import zipfile
import zlib

import numpy as np

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import torch_records

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
# Structure only, no weights; the largest published ones have a few MiB.
_MAX_PICKLE_BYTES = 64 << 20
_MAX_STORAGES = 100_000
_CHUNK_BYTES = 16 << 20

_STORAGE_TYPES = {
  "Float": "f4",
  "Half": "f2",
  "BFloat16": "u2",  # numpy has no bfloat16: the bits, widened on reading
  "Double": "f8",
  "Long": "i8",
  "Int": "i4",
  "Short": "i2",
  "Char": "i1",
  "Byte": "u1",
  "Bool": "?",
}

# For `stubs`: what training checkpoints of PyTorch Lightning hold beside tensors,
# callbacks and options. Of builtins only types: eval and getattr stay refused.
TRAINING = frozenset(
  """
  pytorch_lightning lightning lightning_fabric torchmetrics omegaconf
  argparse.Namespace collections.defaultdict datetime.timedelta typing.Any
  pathlib.PosixPath pathlib.WindowsPath torch.device
  numpy.dtype numpy.core.multiarray.scalar numpy._core.multiarray.scalar
  copy_reg._reconstructor copyreg._reconstructor _codecs.encode
  __builtin__.object __builtin__.dict __builtin__.list __builtin__.set
  __builtin__.int __builtin__.float __builtin__.str __builtin__.bool
  builtins.object builtins.dict builtins.list builtins.set
  builtins.int builtins.float builtins.str builtins.bool
  """.split()
)


def _rebuild_tensor_v2(
  storage: Any,
  offset: Any,
  shape: Any,
  strides: Any,
  requires_grad: Any = False,
  hooks: Any = None,
  metadata: Any = None,
) -> torch_records.Tensor:
  del requires_grad, hooks
  if metadata:  # lazy conjugation or negation: the bytes are not the values
    raise pickle.UnpicklingError("a tensor has metadata, which is not supported")
  return torch_records.Tensor(storage, offset, shape, strides)


def _rebuild_parameter(data: Any, requires_grad: Any = True, hooks: Any = None) -> Any:
  del requires_grad, hooks
  return data


def _allowed_globals() -> dict[tuple[str, str], Any]:
  allowed = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): torch_records.Function(_rebuild_tensor_v2),
    ("torch._utils", "_rebuild_tensor_v2"): torch_records.Function(_rebuild_tensor_v2),
    ("torch._utils", "_rebuild_parameter"): torch_records.Function(_rebuild_parameter),
    ("torch.nn.parameter", "Parameter"): torch_records.Parameter,
  }
  for name, dtype in _STORAGE_TYPES.items():
    for module in ("torch", "torch.cuda"):
      allowed[module, f"{name}Storage"] = torch_records.StorageType(name, dtype)
      allowed[module, f"{name}Tensor"] = torch_records.Tensor
  return allowed


_GLOBALS = _allowed_globals()


class _Unpickler(pickle.Unpickler):
  """Builds records and containers only, and notes the storages they refer to."""

  def __init__(self, file: BinaryIO, stubs: Collection[str] = ()):
    # Python 2 wrote names as byte strings.
    super().__init__(file, encoding="utf-8")
    self._stubs = stubs
    self.storages: dict[str, torch_records.Storage] = {}  # whole ones, by key

  def find_class(self, module: str, name: str) -> Any:
    found = _GLOBALS.get((module, name))
    if found is not None:
      return found
    if module.partition(".")[0] in self._stubs or f"{module}.{name}" in self._stubs:
      return torch_records.Unknown
    raise WeightsError(
      f"asks for {module}.{name}, which is not on the list of what weights need;"
      " nothing was run"
    )

  def persistent_load(self, pid: Any) -> torch_records.Storage:
    # The older format adds None, or a key and the part of the storage it stands for.
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
      raise pickle.UnpicklingError("refers to something that is no storage")
    _, kind, key, _, total = pid[:5]
    part = pid[5] if len(pid) == 6 else None
    start, numel = (0, total) if part is None else part[1:]
    counts = all(type(n) is int and n >= 0 for n in (total, start, numel))
    known = isinstance(kind, torch_records.StorageType) and isinstance(key, str)
    if not known or not counts:
      raise pickle.UnpicklingError("has a storage of unknown type, key or length")
    if start + numel > total:
      raise pickle.UnpicklingError(f"storage {key} ends before a part of it")
    whole = torch_records.Storage(key, kind, total, 0, total)
    if self.storages.setdefault(key, whole) != whole:
      raise pickle.UnpicklingError(f"storage {key} has two types or lengths")
    if len(self.storages) > _MAX_STORAGES:
      raise pickle.UnpicklingError(f"has more than {_MAX_STORAGES} storages")
    return torch_records.Storage(key, kind, total, start, numel)


def _unpickle(
  file: BinaryIO, stubs: Collection[str] = ()
) -> tuple[Any, dict[str, torch_records.Storage]]:
  """Reads one pickle, and leaves `file` behind it.

  Returns:
    The object, of records and containers, and the storages that it refers to.
  """
  start = file.tell()
  # Read without being obeyed: an announced length is there, and no index of the memo
  # makes the unpickler allocate a table that the file does not fill.
  for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
    if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
      raise WeightsError(f"is a pickle with {argument} as index of its memo")
  if file.tell() - start > _MAX_PICKLE_BYTES:
    raise WeightsError(f"has a pickle of more than {_MAX_PICKLE_BYTES} bytes")
  file.seek(start)
  unpickler = _Unpickler(file, stubs)
  root = unpickler.load()
  return root, unpickler.storages


def _member(archive: zipfile.ZipFile, name: str, size: int | None) -> zipfile.ZipInfo:
  """Returns the entry of a member whose bytes lie in the file as they are."""
  info = archive.getinfo(name)
  if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
    raise WeightsError(f"member {name} is compressed or encrypted; torch.save is not")
  if size is None and info.file_size > _MAX_PICKLE_BYTES:
    raise WeightsError(
      f"member {name} has {info.file_size} bytes; the limit is {_MAX_PICKLE_BYTES}"
    )
  if size not in (None, info.file_size):
    raise WeightsError(f"member {name} has {info.file_size} bytes, expected {size}")
  return info


def _mapped(
  whole: np.ndarray, archive: zipfile.ZipFile, name: str, dtype: np.dtype, count: int
) -> np.ndarray:
  """Returns a storage as a view of the mapped file, its checksum verified."""
  info = _member(archive, name, count * dtype.itemsize)
  # The local header's own lengths count: torch.save pads there and not in the index.
  header = bytes(whole[info.header_offset : info.header_offset + 30])
  signature, named, extra = struct.unpack("<4s22xHH", header)
  start = info.header_offset + 30 + named + extra
  stop = start + info.file_size
  if signature != b"PK\x03\x04" or stop > len(whole):
    raise WeightsError(f"member {name} is not where the index says")
  checksum = 0
  for chunk in range(start, stop, _CHUNK_BYTES):
    checksum = zlib.crc32(whole[chunk : min(stop, chunk + _CHUNK_BYTES)], checksum)
  if checksum != info.CRC:
    raise WeightsError(f"member {name} is damaged: its bytes have another CRC-32")
  return np.frombuffer(whole, dtype, count, start) if count else np.empty(0, dtype)


def _read_zip(file: BinaryIO, path: pathlib.Path, stubs: Collection[str]) -> Any:
  with zipfile.ZipFile(file) as archive:
    names = archive.namelist()
    if len(names) > 2 * _MAX_STORAGES or len(set(names)) < len(names):
      raise WeightsError(f"has {len(names)} members, too many or of the same name")
    if sum(i.file_size for i in archive.infolist()) > os.fstat(file.fileno()).st_size:
      raise WeightsError("has compressed or overlapping members; torch.save has none")
    tops = [n.removesuffix("/data.pkl") for n in names if n.endswith("/data.pkl")]
    if len(tops) != 1:
      raise WeightsError("is a zip without exactly one data.pkl: not from torch.save")
    top = tops[0]
    if any(n == f"{top}/constants.pkl" or n.startswith(f"{top}/code/") for n in names):
      raise WeightsError(
        "is a TorchScript archive, which holds code; load it in PyTorch and"
        " torch.save its state_dict()"
      )
    order = "<"
    if f"{top}/byteorder" in names:
      written = archive.read(_member(archive, f"{top}/byteorder", None))
      if written not in (b"little", b"big"):
        raise WeightsError(f"has byte order {written!r}, expected little or big")
      order = "<" if written == b"little" else ">"
    body = archive.read(_member(archive, f"{top}/data.pkl", None))
    root, storages = _unpickle(io.BytesIO(body), stubs)
    # Mapped, not read: of a large file often only a part is wanted.
    whole = np.memmap(path, np.uint8, "r")
    arrays = {}
    for key, storage in storages.items():
      dtype = np.dtype(storage.type.dtype).newbyteorder(order)
      name = f"{top}/data/{key}"
      arrays[key] = _mapped(whole, archive, name, dtype, storage.total)
  return torch_records.resolve(root, arrays)


def _read_older(file: BinaryIO, path: pathlib.Path, stubs: Collection[str]) -> Any:
  # A pickle ends where it says: each leaves the file at the start of the next.
  load = lambda: _unpickle(file)[0]
  magic, version, machine = load(), load(), load()
  if magic != _MAGIC or version != _VERSION or not isinstance(machine, dict):
    raise WeightsError("is a pickle, but not one of torch.save")
  order = "<" if machine.get("little_endian", True) else ">"
  root, storages = _unpickle(file, stubs)
  keys = load()
  if not isinstance(keys, list) or sorted(keys) != sorted(storages):
    raise WeightsError("lists other storages than it uses")
  size = os.fstat(file.fileno()).st_size
  arrays = {}
  for key in keys:
    storage = storages[key]
    (written,) = struct.unpack(f"{order}q", file.read(8))
    dtype = np.dtype(storage.type.dtype).newbyteorder(order)
    start, stop = file.tell(), file.tell() + written * dtype.itemsize
    if written != storage.total:
      raise WeightsError(f"storage {key} has {written} elements, not {storage.total}")
    if stop > size:
      raise WeightsError(f"ends at byte {size}, within a storage that ends at {stop}")
    empty = np.empty(0, dtype)
    arrays[key] = np.memmap(path, dtype, "r", start, written) if written else empty
    file.seek(stop)
  return torch_records.resolve(root, arrays)


def _line(error: Exception) -> str:
  """The message on one line: names in it come from the file."""
  return " ".join(str(error).split())


def read(path: str | os.PathLike[str], stubs: Collection[str] = ()) -> Any:
  """Returns what was saved, with numpy arrays in place of tensors.

  Args:
    path: a file of `torch.save`, of either format.
    stubs: packages ("omegaconf") and full names ("argparse.Namespace") whose objects
      become `Unknown`s instead of being refused; see `TRAINING`.

  Returns:
    Nested dicts, lists and tuples; arrays may be read-only views of a mapped file.
    float16 and bfloat16 come as float32, exactly; other types as they are.

  Raises:
    WeightsError: one line that begins with the file's name.
  """
  path = pathlib.Path(path).expanduser()
  try:
    with open(path, "rb") as file:
      start = file.read(4)
      file.seek(0)
      if start == b"PK\x03\x04":
        return _read_zip(file, path, stubs)
      if start[:1] != b"\x80":
        raise WeightsError("is no file of torch.save: neither a zip nor a pickle")
      return _read_older(file, path, stubs)
  except FileNotFoundError as error:
    raise WeightsError(f"{path} does not exist") from error
  except OSError as error:
    raise WeightsError(f"{path} cannot be read ({error})") from error
  except WeightsError as error:
    raise WeightsError(f"{path} {_line(error)}") from error
  # A damaged pickle can fail in any of these ways.
  except (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    NotImplementedError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
  ) as error:
    raise WeightsError(
      f"{path} is damaged or no file of torch.save ({_line(error)})"
    ) from error


def state_dict(
  path: str | os.PathLike[str], stubs: Collection[str] = ()
) -> dict[str, np.ndarray]:
  """Returns the named tensors of a file, unwrapped from {"state_dict": ...}.

  Args:
    path: a file of `torch.save`, of either format.
    stubs: see `read`.

  Raises:
    WeightsError: the file cannot be read, or holds something else.
  """
  tree = read(path, stubs)
  if isinstance(tree, dict) and isinstance(tree.get("state_dict"), dict):
    tree = tree["state_dict"]
  if not isinstance(tree, dict) or not tree:
    raise WeightsError(f"{path} holds no state dict")
  strange = [str(k) for k, v in tree.items() if not isinstance(v, np.ndarray)]
  if strange or not all(isinstance(key, str) for key in tree):
    names = ", ".join(strange[:9]) or "its names are no text"
    raise WeightsError(f"{path} holds more than named tensors: {names}")
  return tree
