# SPDX-License-Identifier: Apache-2.0
"""Files of torch.save are read as saved, in bounds, and nothing in them is run."""

import collections
import os
import pathlib
import pickletools
import zipfile

import numpy as np
import pytest

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import torch_records
from lamd_jax.interchange import torch_zip
import torch_writer as writer
from torch_writer import Build, Call, Global, New, Persistent, contiguous, tensor

BOTH = pytest.mark.parametrize("older", (False, True), ids=("zip", "older"))
TWELVE = np.arange(12, dtype="<f4")


def _save(path, node, older, arrays, little=True):
  """Arrays by key become storages."""
  if older:
    raw = {key: (array.size, array.tobytes()) for key, array in arrays.items()}
    writer.write_older(path, node, raw, little)
  else:
    raw = {key: array.tobytes() for key, array in arrays.items()}
    writer.write_zip(path, node, raw, b"little" if little else b"big")


def _one(tmp_path, older, node_of, array=TWELVE, kind="Float", little=True, **options):
  """Saves one storage "7" and what `node_of` makes of it; returns what is read."""
  path = tmp_path / "weights.pth"
  node = node_of(writer.storage("7", kind, array.size, older))
  _save(path, node, older, {"7": array}, little)
  return torch_zip.read(path, **options)


@BOTH
def test_a_state_dict_comes_back_bit_for_bit(tmp_path, older):
  rng = np.random.default_rng(0)
  shapes = {"a.weight": (4, 3, 2), "a.bias": (4,), "scalar": (), "empty": (0, 3)}
  state = {k: rng.standard_normal(s).astype("f4") for k, s in shapes.items()}
  writer.write_state(tmp_path / "x.pth", state, older)
  found = torch_zip.state_dict(tmp_path / "x.pth")
  assert list(found) == list(state)
  for name, value in state.items():
    assert found[name].dtype == np.float32
    np.testing.assert_array_equal(found[name], value, strict=True)


def test_the_test_files_are_pickles():
  pickletools.dis(writer.pickled({"a": [1, None, True]}), out=open(os.devnull, "w"))


@BOTH
def test_views_share_and_offset_their_storage(tmp_path, older):
  tree = _one(
    tmp_path,
    older,
    lambda s: {
      "transposed": tensor(s, (4, 3), (1, 4)),
      "tail": tensor(s, (2, 2), (4, 1), offset=6),
      "repeated": tensor(s, (2, 3), (0, 1)),
    },
  )
  np.testing.assert_array_equal(tree["transposed"], TWELVE.reshape(3, 4).T)
  np.testing.assert_array_equal(tree["tail"], [[6, 7], [10, 11]])
  np.testing.assert_array_equal(tree["repeated"], [[0, 1, 2]] * 2)


@BOTH
@pytest.mark.parametrize(
  "kind, dtype, expected",
  (
    ("Half", "f2", "f4"),
    ("Double", "f8", "f8"),
    ("Long", "i8", "i8"),
    ("Int", "i4", "i4"),
    ("Short", "i2", "i2"),
    ("Char", "i1", "i1"),
    ("Byte", "u1", "u1"),
    ("Bool", "?", "?"),
  ),
)
@pytest.mark.parametrize("little", (True, False))
def test_types_and_byte_orders(tmp_path, older, kind, dtype, expected, little):
  values = np.array([0, 1, 77, 100]).astype(dtype)
  stored = values.astype(values.dtype.newbyteorder("<" if little else ">"))
  node = lambda s: [tensor(s, (2, 2), (2, 1))]
  (found,) = _one(tmp_path, older, node, stored, kind, little)
  assert found.dtype == np.dtype(expected)
  np.testing.assert_array_equal(found.ravel(), values)


@BOTH
def test_bfloat16_is_widened(tmp_path, older):
  # 1, -2 and the largest finite value, from the format's definition: the upper half
  # of a float32.
  bits = np.array([0x3F80, 0xC000, 0x7F7F], "<u2")
  expected = np.array([0x3F800000, 0xC0000000, 0x7F7F0000], "u4").view("f4")
  node = lambda s: [tensor(s, (3,), (1,))]
  (found,) = _one(tmp_path, older, node, bits, "BFloat16")
  np.testing.assert_array_equal(found, expected, strict=True)


@BOTH
def test_wrappings_of_all_ages(tmp_path, older):
  parameter = Global("torch.nn.parameter", "Parameter")
  hooks = collections.OrderedDict()

  def node(s):
    v2 = tensor(s, (2,), (1,))
    legacy = Build(Call(Global("torch", "FloatTensor"), ()), (s, 0, (2,), (1,)))
    v1 = Call(Global("torch._utils", "_rebuild_tensor"), (s, 0, (2,), (1,)))
    size = Call(Global("torch", "Size"), ((2,),))
    rebuild = Global("torch._utils", "_rebuild_parameter")
    return {
      "size": tensor(s, (2,), (1,))._replace(
        arguments=(s, 0, size, (1,), False, hooks)
      ),
      "v1": v1,
      "set": legacy,
      "new": New(parameter, (v2, True)),
      "parameter": Call(rebuild, (v2, True, hooks)),
      "variable": Build(Call(parameter, (v1,)), (True, False, hooks)),
      "oldest": Build(New(parameter, ()), (legacy, None, hooks, True, False)),
    }

  tree = _one(tmp_path, older, node)
  assert len(tree) == 7
  for name, value in tree.items():
    np.testing.assert_array_equal(value, [0, 1], err_msg=name)


def test_a_part_of_an_older_storage(tmp_path):
  def node(s):
    return [tensor(Persistent((*s.id[:5], ("8", 4, 6))), (2, 3), (3, 1))]

  (found,) = _one(tmp_path, True, node)
  np.testing.assert_array_equal(found, TWELVE[4:10].reshape(2, 3))
  with pytest.raises(WeightsError, match="out|offset|elements"):
    outside = lambda s: [tensor(Persistent((*s.id[:5], ("8", 4, 6))), (7,), (1,))]
    _one(tmp_path, True, outside)


@BOTH
@pytest.mark.parametrize("stubs", ((), torch_zip.TRAINING), ids=("weights", "training"))
@pytest.mark.parametrize(
  "module, name",
  (("os", "system"), ("posix", "system"), ("builtins", "eval"),
   ("__builtin__", "exec"), ("torch._utils", "__builtins__"), ("numpy", "load"),
   ("builtins", "getattr"), ("omegaconfig", "x"), ("subprocess", "Popen")),
)  # fmt: skip
def test_nothing_is_run(tmp_path, older, stubs, module, name):
  target = tmp_path / "ran"
  command = f"touch {target}" if name == "system" else f"open({str(target)!r}, 'w')"
  attack = lambda s: {
    "weight": tensor(s, (2,), (1,)), "extra": Call(Global(module, name), (command,))
  }  # fmt: skip
  with pytest.raises(WeightsError, match=f"{module}.{name}.*nothing was run"):
    _one(tmp_path, older, attack, stubs=stubs)
  assert not target.exists()


@BOTH
def test_a_stub_swallows_what_is_done_to_it(tmp_path, older):
  # A package of the list may be named for anything; even so nothing of it is called.
  target = tmp_path / "ran"
  system = Global("pytorch_lightning.utilities", "os.system")
  attack = lambda s: {
    "weight": tensor(s, (2,), (1,)),
    "extra": Build(Call(system, (f"touch {target}",)), {"a": 1}),
  }
  tree = _one(tmp_path, older, attack, stubs=torch_zip.TRAINING)
  assert isinstance(tree["extra"], torch_records.Unknown)
  np.testing.assert_array_equal(tree["weight"], [0, 1])
  assert not target.exists()


@BOTH
def test_training_checkpoints_are_read_past_unknown_objects(tmp_path, older):
  namespace = New(Global("argparse", "Namespace"), ())
  node = lambda s: {
    "state_dict": collections.OrderedDict(w=tensor(s, (2,), (1,))),
    "options": Build(namespace, {"lr": 1, "nested": Build(namespace, {"a": None})}),
  }
  tree = _one(tmp_path, older, node, stubs=torch_zip.TRAINING)
  assert isinstance(tree["options"], torch_records.Unknown)
  np.testing.assert_array_equal(tree["state_dict"]["w"], [0, 1])
  with pytest.raises(WeightsError, match="argparse.Namespace"):
    _one(tmp_path, older, node)


REBUILD = Global("torch._utils", "_rebuild_tensor_v2")


@BOTH
@pytest.mark.parametrize(
  "hostile, message",
  (
    (lambda s: tensor(s, (13,), (1,)), "12 elements"),
    (lambda s: tensor(s, (12,), (1,), offset=1), "12 elements"),
    (lambda s: tensor(s, (2,), (12,)), "12 elements"),
    (lambda s: tensor(s, (2,), (-1,), offset=3), "shape"),
    (lambda s: tensor(s, (2,), (1,), offset=-1), "shape"),
    (lambda s: tensor(s, (2, 2), (1,)), "shape"),
    (lambda s: tensor(s, (1 << 40, 1 << 40), (0, 0)), "12 elements"),
    (lambda s: tensor(s, (True,), (1,)), "shape"),
    (lambda s: [s, Call(REBUILD, ("7", 0, (1,), (1,)))], "without a storage"),
    (lambda s: Call(REBUILD, (s, 0, (1,), (1,), False, {}, {"neg": 1})), "metadata"),
    (lambda s: Build(tensor(s, (1,), (1,)), (s, 0, (9,), (1,))), "after it was made"),
    (lambda s: Build(REBUILD, (None, {"__defaults__": ()})), "a function is changed"),
    (lambda s: Build(Global("collections", "OrderedDict"), {"x": 1}), "damaged"),
    (lambda s: Build(s, (None, {"total": 99})), "damaged"),
    (lambda s: [s, Persistent((*s.id[:4], 11, *s.id[5:]))], "two types or lengths"),
    (lambda s: Persistent(("module", "os")), "no storage"),
    (lambda s: Persistent(("storage", None, "7", "cpu", 12)), "unknown type"),
  ),
)
def test_hostile_structures_are_refused(tmp_path, older, hostile, message):
  with pytest.raises(WeightsError, match=message) as error:
    _one(tmp_path, older, lambda s: {"x": hostile(s)})
  assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


def _nested(levels):
  """A list that holds the one below ten times, by the memo: 10^levels leaves."""
  code = b"]q\x00"
  for level in range(levels):
    get = b"h" + bytes([level])
    code += b"](" + get * 10 + b"eq" + bytes([level + 1])
  return b"\x80\x02" + code + b"."


@pytest.mark.parametrize(
  "body, message",
  (
    (_nested(100), "nests more"),
    (b"\x80\x02]q\x00h\x00a.", "contains itself"),
    (b"\x80\x02]r\xff\xff\xff\x7f.", "2147483647 as index of its memo"),
    (b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.", "damaged"),
  ),
)
def test_bombs_are_refused(tmp_path, body, message):
  with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
    archive.writestr("x/data.pkl", body)
  with pytest.raises(WeightsError, match=message):
    torch_zip.read(tmp_path / "x.pt")


def test_shared_lists_are_visited_once(tmp_path):
  with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
    archive.writestr("x/data.pkl", _nested(50))
  tree = torch_zip.read(tmp_path / "x.pt")  # would never end otherwise
  assert tree[0] is tree[9] and len(tree) == 10


@BOTH
def test_truncated_anywhere(tmp_path, older):
  path = tmp_path / "x.pth"
  writer.write_state(path, {"a": TWELVE, "b": TWELVE}, older)
  body = path.read_bytes()
  for length in range(0, len(body), 7):
    path.write_bytes(body[:length])
    with pytest.raises(WeightsError) as error:
      torch_zip.read(path)
    assert "\n" not in str(error.value)


def test_a_flipped_bit_in_a_zip_is_noticed(tmp_path):
  path = tmp_path / "x.pth"
  writer.write_state(path, {"a": TWELVE}, False)
  body = bytearray(path.read_bytes())
  body[body.index(TWELVE.tobytes()) + 3] ^= 1
  path.write_bytes(body)
  with pytest.raises(WeightsError, match="CRC"):
    torch_zip.read(path)


def test_zips_that_are_not_from_torch(tmp_path):
  path = tmp_path / "x.pth"
  node = {"a": tensor(writer.storage("0", "Float", 12, False), (12,), (1,))}

  def refused(message):
    with pytest.raises(WeightsError, match=message):
      torch_zip.read(path)

  writer.write_zip(path, node, {"0": bytes(48)}, compression=zipfile.ZIP_DEFLATED)
  refused("compressed")
  writer.write_zip(path, node, {"0": bytes(48)}, compression=zipfile.ZIP_DEFLATED)
  with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
    archive.writestr("archive/pad", bytes(99))  # so that the sum is no giveaway
  refused("compressed")
  writer.write_zip(path, node, {"0": bytes(44)})
  refused("44 bytes, expected 48")
  writer.write_zip(path, node, {})
  refused("archive/data/0")
  writer.write_zip(path, node, {"0": bytes(48)}, order=b"middle")
  refused("byte order")
  writer.write_zip(path, node, {"0": bytes(48)})
  with zipfile.ZipFile(path, "a") as archive:
    archive.writestr("archive/code/__torch__.py", b"")
  refused("TorchScript")
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("readme", b"")
  refused("data.pkl")
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("a/data.pkl", b"")
    archive.writestr("b/data.pkl", b"")
  refused("exactly one")


def test_other_files(tmp_path):
  path = tmp_path / "x.pth"
  for body, message in (
    (b"", "neither"),
    (b"\x00\x01not weights", "neither"),
    (writer.pickled({"a": 1}) * 3, "not one of torch.save"),
  ):
    path.write_bytes(body)
    with pytest.raises(WeightsError, match=message):
      torch_zip.read(path)
  with pytest.raises(WeightsError, match="does not exist"):
    torch_zip.read(tmp_path / "absent")
  with pytest.raises(WeightsError, match="cannot be read"):
    torch_zip.read(tmp_path)


@BOTH
def test_state_dict_unwraps_and_refuses_other_things(tmp_path, older):
  path = tmp_path / "x.pth"
  stored = writer.storage("0", "Float", 12, older)
  weights = {"a": tensor(stored, (12,), contiguous((12,)))}
  _save(path, {"state_dict": weights, "epoch": 3}, older, {"0": TWELVE})
  np.testing.assert_array_equal(torch_zip.state_dict(path)["a"], TWELVE)
  _save(path, {**weights, "epoch": 3}, older, {"0": TWELVE})
  with pytest.raises(WeightsError, match="more than named tensors: epoch"):
    torch_zip.state_dict(path)
  _save(path, [1], older, {})
  with pytest.raises(WeightsError, match="no state dict"):
    torch_zip.state_dict(path)


def test_no_path_of_an_archive_is_written(tmp_path):
  folder = tmp_path / "inner"
  folder.mkdir()
  stored = writer.storage("../../../evil", "Float", 12, False)
  path = folder / "x.pth"
  _save(path, {"a": tensor(stored, (12,), (1,))}, False, {"../../../evil": TWELVE})
  np.testing.assert_array_equal(torch_zip.read(path)["a"], TWELVE)
  assert sorted(p for p in tmp_path.rglob("*")) == [folder, pathlib.Path(path)]
