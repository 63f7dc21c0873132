# SPDX-License-Identifier: Apache-2.0
"""What is exported comes back bit by bit, from a folder or the Hub, and says what it is."""

from __future__ import annotations

import hashlib
import json
import pathlib
import sys
import types as python_types

import jax
import numpy as np
import pytest
import tiny

import lamd_jax
from lamd_jax import exported
from lamd_jax import hub
from lamd_jax import loading
from lamd_jax import main
from lamd_jax import media
from lamd_jax import run_folder
from lamd_jax.data import index
from lamd_jax.data.sources import folder as folder_source
from lamd_jax.errors import ConfigError, WeightsError
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.tools import export
from lamd_jax.training import checkpoints


def _random(tree, seed):
  draw = np.random.default_rng(seed)
  return jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), tree)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run of videos in a folder, never trained: two stages of random numbers."""
  place = tmp_path_factory.mktemp("run")
  for i in range(2):
    clip = np.random.default_rng(i).integers(0, 256, (8, 16, 16, 3), np.uint8)
    media.write_mp4(place / "data" / f"{i}.mp4", clip, 12.0)
  index.build(place / "data", folder_source.scan(place / "data").items)
  config = tiny.config(
    data__source="folder", data__root=str(place / "data"), data__stride=2
  )
  workdir = place / "work"
  run_folder.write(loading.epath.Path(workdir), config)
  for number, stage in enumerate(SYSTEMS["lvdm"](config).stages()):
    if stage.name in config.stages:
      params, extras = jax.eval_shape(lambda stage=stage: stage.init(0)[:2])
      params = {g: _random(tree, number) for g, tree in params.items()}
      average = {g: _random(tree, 7 + number) for g, tree in params.items()}
      extras = jax.tree.map(lambda x: np.float32(0.3) * np.ones(x.shape, x.dtype), extras)
      checkpoints.write_finished(workdir / stage.name, params, average, extras)
  report = {
    "protocol": {"name": "simple"}, "protocol_hash": "ab12",
    "reconstruction": {"psnr": 27.25, "clips": 8},
    "generation": {
      "generated": {"total": 8.5, "interval": {"total": [6.5, 13.0], "mean": [1, 2]}},
      "<script>|": {"total": 1.5, "interval": {"total": [1.0, 2.0]}},
    },
  }  # fmt: skip
  (workdir / "eval").mkdir()
  (workdir / "eval" / "report.json").write_text(json.dumps(report))
  media.write_mp4(
    workdir / "gallery" / "generated_000.mp4", np.zeros((4, 16, 16, 3), np.uint8), 6
  )
  return workdir


@pytest.fixture(scope="module")
def out(run):
  folder = run.parent / "out with space"
  arguments = [f"--workdir={run}", f"--out={folder}", "--licence=cc-by-4.0"]
  assert export.main(arguments) == 0
  return folder


def _same(a, b):
  flat = lambda tree: exported.flatten(jax.device_get(tree))
  a, b = flat(a), flat(b)
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
    assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize("which", ["ema", "raw"])
def test_round_trip_is_bit_exact(run, out, which):
  before, after = (lamd_jax.load(x, weights=which) for x in (run, out))
  _same(before.weights, after.weights)
  assert before.fps == after.fps == 6.0  # 12 frames a second, every second taken
  other = lamd_jax.load(out, weights={"ema": "raw", "raw": "ema"}[which])
  kernels = [exported.flatten(jax.device_get(m.weights)) for m in (after, other)]
  assert any((kernels[0][k] != kernels[1][k]).any() for k in kernels[0])


def test_samples_of_run_and_export_are_equal(run, out):
  clips = [lamd_jax.load(x).generate(seed=4, steps=2).frames for x in (run, out)]
  np.testing.assert_array_equal(*clips)


def test_the_folder_is_whole_and_says_nothing_of_this_machine(run, out):
  names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
  assert names == {
    "config.json", "model.safetensors", "model_raw.safetensors", "preprocessor.json",
    "README.md", "eval/report.json", "samples/000.mp4",
  }  # fmt: skip
  for path in out.rglob("*"):
    if path.is_file():
      assert str(run.parent).encode() not in path.read_bytes(), path
  known = json.loads((out / "preprocessor.json").read_text())
  assert known["clip"]["fps"] == 6.0 and known["clip"]["range"] == [0, 255]
  for name, digest in known["files"].items():
    assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
  assert not list(out.parent.glob(".*.part"))


def test_the_card_has_front_matter_scores_and_no_html_of_names(out):
  card = (out / "README.md").read_text()
  assert card.startswith('---\nlibrary_name: lamd_jax\nlicense: "cc-by-4.0"\n')
  assert "| simple ab12 | generation; generated | 8.5 [6.5, 13] |" in card
  assert "| simple ab12 | reconstruction; psnr, dB | 27.25 |" in card
  assert "<script" not in card and "&lt;script>&#124;" in card
  assert "samples/000.mp4" in card
  # This run is asked for nothing, and Hugging Face has no name for that.
  assert "pipeline_tag" not in card


def test_the_command_samples_from_an_export(out, tmp_path):
  code = main.run([
    "main", f"--workdir={out}", "--mode=sample", "--sample.n=1", "--sample.steps=2",
    f"--sample.out={tmp_path}", "--sample.formats=npz",
  ])  # fmt: skip
  assert code == 0 and np.load(tmp_path / "samples.npz")["arr_0"].shape[0] == 1


def test_an_export_is_not_trained(out, capsys):
  before = sorted(out.rglob("*"))
  assert main.run(["main", f"--workdir={out}"]) == 2
  assert "is an export" in capsys.readouterr().err
  assert sorted(out.rglob("*")) == before


def test_an_export_can_be_exported_and_replaced(out, tmp_path):
  again = tmp_path / "again"
  export.export(str(out), again, "x")
  export.export(str(out), again, "y")
  _same(exported.read(out, "raw"), exported.read(again, "raw"))
  assert "Weights: y." in (again / "README.md").read_text()


def test_shards_have_an_index_and_come_back(tmp_path):
  weights = {"a": {"params": {"g": {"x": np.arange(6.0), "y": np.float32(2)}}},
             "b": {"params": {"g": {"z": np.arange(4, dtype=np.int32)}}, "extras": {}}}  # fmt: skip
  names = exported.write_weights(tmp_path, "ema", weights, limit=50)
  assert names == [
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
  ]  # fmt: skip
  files = {name: exported.sha256(tmp_path / name) for name in names}
  record = {"format": exported.FORMAT, "files": files}
  (tmp_path / "preprocessor.json").write_text(json.dumps(record))
  index_file = json.loads((tmp_path / names[-1]).read_text())
  assert index_file["metadata"]["total_size"] == 48 + 4 + 16
  assert index_file["weight_map"]["a/params/g/x"] == names[0]
  _same(exported.read(tmp_path, "raw"), weights)  # no averages: raw is the same


@pytest.mark.parametrize("system, config", [
  ("lvdm", tiny.text_config), ("lamd", tiny.lamd_config), ("gen1", tiny.gen1_config),
])  # fmt: skip
def test_trees_of_every_system_come_back(system, config):
  weights = {}
  for stage in SYSTEMS[system](config()).stages():
    if stage.name in config().stages:
      params, extras = jax.eval_shape(lambda stage=stage: stage.init(0)[:2])
      weights[stage.name] = {"params": dict(params), "extras": extras}
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), weights)
  found = exported.unflatten(exported.flatten(zeros), exported.empty_nodes(zeros))
  assert jax.tree.structure(found) == jax.tree.structure(zeros)


def test_damage_is_found(out, tmp_path):
  copy = tmp_path / "copy"
  export.export(str(out), copy, "x")
  data = bytearray((copy / "model.safetensors").read_bytes())
  data[-3] ^= 1
  (copy / "model.safetensors").write_bytes(data)
  with pytest.raises(WeightsError, match="not as it was exported"):
    lamd_jax.load(copy)
  (copy / "model_raw.safetensors").unlink()
  with pytest.raises(WeightsError, match="is missing"):
    lamd_jax.load(copy, weights="raw")
  (copy / "preprocessor.json").write_text("[]")
  with pytest.raises(WeightsError, match="export it again"):
    lamd_jax.load(copy)


def test_what_cannot_be_exported_is_one_line(run, tmp_path, capsys):
  (tmp_path / "taken").mkdir()
  (tmp_path / "taken" / "x").write_text("mine")
  for arguments, words in (
    ([f"--workdir={run}", f"--out={tmp_path / 'taken'}"], "something else"),
    ([f"--workdir={tmp_path / 'none'}", f"--out={tmp_path / 'o'}"], "no such folder"),
    ([f"--workdir={tmp_path}", f"--out={tmp_path / 'o'}"], "holds no run"),
  ):
    assert export.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
  assert (tmp_path / "taken" / "x").exists() and not (tmp_path / "o").exists()
  with pytest.raises(WeightsError, match="float16"):
    half = {"a": {"params": {"x": np.zeros(2, np.float16)}}}
    exported.write_weights(tmp_path, "ema", half)


def test_the_network_is_asked_for_hub_ids_alone(out, monkeypatch):
  asked = []

  def snapshot_download(repository, **options):
    asked.append((repository, options["revision"], options["local_files_only"]))
    if repository == "me/absent":
      raise OSError("no route\nto host")
    return str(out)

  library = python_types.ModuleType("huggingface_hub")
  library.snapshot_download = snapshot_download
  monkeypatch.setitem(sys.modules, "huggingface_hub", library)
  lamd_jax.load(out)
  with pytest.raises(ConfigError, match="no such folder; .*hub:me/sky"):
    lamd_jax.load("me/sky")
  assert not asked
  assert loading.locate("hub:me/sky@v1") == pathlib.Path(out)
  with pytest.raises(WeightsError, match="hub:me/absent: cannot be fetched") as caught:
    loading.locate("hub:me/absent")
  assert "\n" not in str(caught.value)
  monkeypatch.setenv("LAMD_OFFLINE", "1")
  with pytest.raises(WeightsError, match="LAMD_OFFLINE is set"):
    loading.locate("hub:me/absent")
  assert asked == [
    ("me/sky", "v1", False), ("me/absent", None, False), ("me/absent", None, True)
  ]  # fmt: skip
  with pytest.raises(ConfigError, match="OWNER/NAME"):
    loading.locate("hub:../../etc")
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # not installed
  with pytest.raises(WeightsError, match=r"lamd_jax\[hub\]"):
    loading.locate("hub:me/sky")


def test_an_export_is_uploaded_only_when_told_to(out, monkeypatch):
  calls = []
  library = python_types.ModuleType("huggingface_hub")
  library.create_repo = lambda name, **options: calls.append((name, options))

  def upload_folder(**options):
    calls.append((options["repo_id"], options["folder_path"]))
    if options["repo_id"] == "me/denied":
      raise PermissionError("403\nlong story")
    return "https://huggingface.co/me/sky/commit/1"

  library.upload_folder = upload_folder
  monkeypatch.setitem(sys.modules, "huggingface_hub", library)
  assert hub.push(out, "me/sky", private=True).startswith("https://")
  made = ("me/sky", {"private": True, "exist_ok": True})
  assert calls == [made, ("me/sky", str(out))]
  with pytest.raises(WeightsError, match="me/denied: cannot be uploaded .*403") as caught:
    hub.push(out, "me/denied", private=False)
  assert "\n" not in str(caught.value)
  calls.clear()
  for name in ("sky", "me/sky@v1", "../sky"):
    with pytest.raises(ConfigError, match="OWNER/NAME"):
      hub.push(out, name, private=True)
  monkeypatch.setenv("LAMD_OFFLINE", "1")
  with pytest.raises(ConfigError, match="LAMD_OFFLINE"):
    hub.push(out, "me/sky", private=True)
  assert not calls


def test_a_tensor_below_a_tensor_is_no_export_of_ours():
  one = np.ones(1, np.float32)
  with pytest.raises(WeightsError, match="a/b/c: lies below a tensor"):
    exported.unflatten({"a/b": one, "a/b/c": one})
