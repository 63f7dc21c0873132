# SPDX-License-Identifier: Apache-2.0
"""python -m lamd_jax.tools.score on small clips, from files to report."""

import json

import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

import clip_files
import corruptions
from lamd_jax.evaluation import frechet
from lamd_jax.evaluation import mmd
from lamd_jax.evaluation import protocol as protocol_lib
from lamd_jax.evaluation import random_network
from lamd_jax.interchange import i3d as i3d_weights
from lamd_jax.networks import i3d
from lamd_jax.tools import score
from lamd_jax.tools import score_run
from lamd_jax.tools import score_selftest

PRESET = protocol_lib.find("random_small_16f")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """24 real clips and 8 fakes of another kind, as npz."""
  root = tmp_path_factory.mktemp("clips")
  np.savez(root / "real.npz", clip_files.waves(24))
  fakes = clip_files.waves(8, seed=1)
  draw = np.random.default_rng(0)
  fakes = np.stack([corruptions.noisy(clip, 5, draw) for clip in fakes])
  np.savez(root / "fake.npz", fakes)
  return root


def _call(folder, *arguments, real="real.npz", fake="fake.npz", **changes):
  options = {"protocol": PRESET.name, "cache": folder / "cache", "resamples": 10}
  flags = [f"--{k.replace('_', '-')}={v}" for k, v in (options | changes).items()]
  paths = [f"--real={folder / real}", f"--fake={folder / fake}"]
  return score.main([*paths, *flags, *arguments])


@pytest.fixture(scope="module")
def report(folder):
  out = folder / "out" / "report.json"
  code = _call(folder, "--set=reals=8", "--paired", out=out, made_by="EMA, ddim 20")
  assert code == 0
  return json.loads(out.read_text())


def test_report_says_what_the_number_means(report):
  assert report["protocol"]["name"] == "random_small_16f+reals=8"
  changed = PRESET.changed({"reals": 8})
  assert report["protocol_hash"] == changed.hash() != PRESET.hash()
  assert report["made_by"] == "EMA, ddim 20"
  for records in report["scores"].values():
    assert [r["title"] for r in records] == [changed.title(m) for m in ("frechet", "mmd")]
    assert all(r["protocol_hash"] == changed.hash() for r in records)
    assert all(r["interval_95"][0] <= r["value"] <= r["interval_95"][1] for r in records)
  assert report["real"]["kind"] == "npz" and report["real"]["clips"] == 8


def test_fakes_lie_far_above_floor(report):
  value = {name: records[0]["value"] for name, records in report["scores"].items()}
  assert set(value) == {
    "fakes", "floor: other real videos", "baseline: first frame repeated",
    "baseline: frames shuffled",
  }  # fmt: skip
  assert value["fakes"] > 3 * value["floor: other real videos"]
  assert report["real"]["motion"]["static"] == 0
  assert report["fake"]["motion"]["difference"] > 2 * report["real"]["motion"]["difference"]
  near = report["nearest_real"]
  assert near["fakes"]["mean"] > near["fakes"]["least"] > 1 and "floor" in near
  assert report["real"]["clip_list"] != report["fake"]["clip_list"]
  assert 0 < report["paired"]["SSIM (Gaussian 11x11)"] < 1


def test_scores_are_those_of_the_clips(report, folder):
  kernels = random_network.parameters()
  fakes = np.load(folder / "fake.npz")["arr_0"]
  made = np.asarray(random_network.features(kernels, fakes), np.float64)
  real = np.load(folder / "real.npz")["arr_0"]
  source = score_run.clip_sources.open_source(folder / "real.npz")
  changed = PRESET.changed({"reals": 8})
  chosen = score_run.pick_reals(changed, source, "", 0)
  assert not {p.video for p in chosen.where} & {p.video for p in chosen.other}
  picked = real[[place.video for place in chosen.where]]
  base = np.asarray(random_network.features(kernels, picked), np.float64)
  found = [record["value"] for record in report["scores"]["fakes"]]
  assert found[0] == pytest.approx(frechet.distance(base, made).total, rel=1e-4)
  assert found[1] == pytest.approx(mmd.unbiased_cubic(base, made), rel=1e-4)


def test_page_and_terminal_name_the_protocol(report, folder, capsys):
  page = (folder / "out" / "report.html").read_text()
  assert report["protocol_hash"] in page and "<svg" in page and "FVD</td>" not in page
  assert _call(folder, "--set=reals=8") == 0
  said = capsys.readouterr().out
  assert "features from the cache" in said
  for line in said.splitlines():
    if "Frechet distance" in line or "MMD" in line:
      assert report["protocol_hash"] in line and "(not " in line


def test_folders_of_images_give_the_same_score(folder, report, tmp_path):
  for i, clip in enumerate(np.load(folder / "fake.npz")["arr_0"]):
    for t, frame in enumerate(clip):
      (tmp_path / f"{i}").mkdir(exist_ok=True)
      Image.fromarray(frame).save(tmp_path / f"{i}" / f"{t:02}.png")
  out = folder / "images.json"
  assert _call(folder, "--set=reals=8", fake=tmp_path, out=out) == 0
  again = json.loads(out.read_text())
  assert again["scores"]["fakes"] == report["scores"]["fakes"]


def test_a_damaged_cache_is_made_again(folder, report, tmp_path):
  out = tmp_path / "a.json"
  for file in (folder / "cache").glob("*.npz"):
    file.write_bytes(file.read_bytes()[:100])
  assert _call(folder, "--set=reals=8", out=out) == 0
  assert json.loads(out.read_text())["scores"] == report["scores"]


def test_few_reals_are_halved_for_the_floor(folder):
  source = score_run.clip_sources.open_source(folder / "real.npz")
  chosen = score_run.pick_reals(PRESET, source, "", 0)
  assert len(chosen.where) == 24 and len(chosen.other) == 12
  assert "halves" in chosen.how
  # Longer videos hold second draws.
  longer = PRESET.changed({"frames": 9})
  chosen = score_run.pick_reals(longer, source, "", 0)
  assert len(chosen.where) == len(chosen.other) == 24 and "same videos" in chosen.how
  assert not set(chosen.where) & set(chosen.other)


def test_switches_are_read_in_any_case():
  preset = protocol_lib.find("lvdm")
  for text in ("true", "True", "1"):
    assert score.changes([f"fewer_reals={text}"], preset) == {"fewer_reals": True}


def _refused(capsys, code, expected, message):
  said = capsys.readouterr().err.splitlines()
  lines = [line for line in said if not line.startswith("[score")]
  assert code == expected and len(lines) == 1 and message in lines[0], lines


@pytest.mark.parametrize(
  "changes, code, message",
  [
    ({"protocol": "fvd"}, 2, "--protocol=fvd: not known"),
    ({"set": "clips=3"}, 2, "protocol field clips: not known"),
    ({"set": "reals=many"}, 2, "of type int"),
    ({"set": "fewer_reals=yes"}, 2, "of type bool"),
    ({"set": "multiple=0"}, 2, "must lie between 1"),
    ({"seed": -1}, 2, "--seed=-1: must lie between 0"),
    ({"out": "report.txt"}, 2, "must end in .json"),
    ({"set": "reals=99"}, 3, "asks for 99 reals"),
    ({"set": "fakes=9"}, 3, "asks for 9 fakes"),
    ({"set": "pixels=64"}, 3, "the protocol takes 64x64"),
    ({"set": "frames=17"}, 3, "has the 17 frames"),
    ({"set": "frames=8"}, 3, "needs 9 or more"),
    ({"weights": "x.safetensors"}, 2, "has weights of its own"),
    ({"protocol": "tf2018"}, 4, "tools.convert i3d"),
    ({"protocol": "jedi"}, 3, "finite [N,D] features are due"),
  ],
)
def test_wrong_calls_say_one_line_and_write_nothing(
  folder, tmp_path, capsys, changes, code, message
):
  changes = {"out": tmp_path / "report.json", **changes}
  _refused(capsys, _call(folder, **changes), code, message)
  assert not list(tmp_path.iterdir())


def test_bad_clips_say_one_line_and_write_nothing(folder, tmp_path, capsys):
  nan = clip_files.waves(2).astype(np.float32)
  nan[1, 3] = np.nan
  np.savez(tmp_path / "nan.npz", nan)
  np.savez(tmp_path / "short.npz", clip_files.waves(3, frames=8))
  np.savez(tmp_path / "small.npz", clip_files.waves(8, size=24)[:, :, :, :20])
  (tmp_path / "empty").mkdir()
  (tmp_path / "torn.npz").write_bytes((tmp_path / "nan.npz").read_bytes()[:5000])
  before = sorted(tmp_path.iterdir())
  out = tmp_path / "report.json"
  for name, message in [
    ("nan.npz", "clip 1 holds NaN"),
    ("short.npz", "the longest has 8"),
    ("empty", "holds no video"),
    ("torn.npz", "truncated"),
    ("small.npz", "reals are 32x32, fakes 20x24; resize one"),
    ("gone", "is no folder and no npz file"),
  ]:
    _refused(capsys, _call(folder, fake=tmp_path / name, out=out), 3, message)
  assert sorted(tmp_path.iterdir()) == before


def test_wrong_weights_say_one_line(folder, tmp_path, capsys):
  path = tmp_path / "i3d.safetensors"
  path.write_bytes(b"\x80\x02}q\x00.")
  call = lambda: _call(folder, protocol="tf2018", weights=path)
  _refused(capsys, call(), 4, "is a pickle or zip")
  tiny = i3d_weights.to_state(
    score_run.extractors.initializers.initialize(
      i3d.I3D(1e-3, 5, 16, 1), 0, np.zeros((1, 9, 32, 32, 3), np.float32)
    )["params"]
  )
  i3d_weights.safetensors_file.write(path, tiny, {})
  _refused(capsys, call(), 4, "weights do not fit the network")
  path.write_bytes(path.read_bytes()[:-40])
  _refused(capsys, call(), 4, "truncated")


def test_features_from_files(tmp_path):
  rng = np.random.default_rng(0)
  real, fake = rng.standard_normal((2, 40, 6))
  np.savez(tmp_path / "real.npz", real)
  np.savez(tmp_path / "fake.npz", fake + 1)
  out = tmp_path / "report.json"
  assert _call(tmp_path, protocol="jedi", out=out) == 0
  scores = json.loads(out.read_text())["scores"]
  assert [r["title"] for r in scores["fakes"]] == ["V-JEPA Frechet distance", "JEDi"]
  assert len(scores) == 4 and sum("baseline: " in name for name in scores) == 2
  constant = next(rows for name, rows in scores.items() if "mean, for each" in name)
  a, b = real[:20], real[20:].mean(0, keepdims=True)
  # A set without any spread: |m1 - m2|^2 + tr C1.
  expected = np.square(a.mean(0) - b).sum() + a.var(0, ddof=1).sum()
  assert constant[0]["value"] == pytest.approx(expected)
  assert scores["fakes"][1]["value"] == pytest.approx(
    mmd.biased_square_x100(real, fake + 1)
  )


def test_selftest_reports_each_rung(monkeypatch):
  said = []
  rungs = [score_selftest.Outcome("a", True, "x"), score_selftest.Outcome("b", None, "y")]
  monkeypatch.setattr(score_selftest, "_random_weights", lambda: iter(rungs))
  assert score_selftest.run("", "", "", said.append) == 0
  assert [line.split()[0] for line in said] == ["pass"] * 3 + ["-"] * 4
  assert "needs --weights" in said[-1]
  failed = [score_selftest.Outcome("a", False, "x")]
  monkeypatch.setattr(score_selftest, "_random_weights", lambda: iter(failed))
  assert score_selftest.run("", "", "", said.append) == 1


def test_inception_score_needs_no_reals(monkeypatch, tmp_path):
  # A network that is sure of another class for each clip: as many classes as clips.
  # Told by the first pixel, which is the clip's number.
  sure = lambda params, clips: jnp.eye(8)[clips[:, 0, 0, 0, 0]] + 0.0 * params
  monkeypatch.setitem(
    score_run.extractors.FUNCTIONS, "c3d_ucf101", lambda protocol: sure
  )
  monkeypatch.setattr(score_run, "load_weights", lambda *_: (np.zeros(()), "test"))
  out = tmp_path / "report.json"
  flags = ("--set=fakes=8", "--set=splits=1")
  clips = np.zeros((9, 16, 32, 32, 3), np.uint8)
  clips[:, 0, 0, 0] = np.minimum(np.arange(9), 7)[:, None]
  np.savez(tmp_path / "real.npz", clips)
  np.savez(tmp_path / "fake.npz", clips[:8])
  call = lambda real: _call(
    tmp_path, *flags, fake="fake.npz", protocol="is_tgan2", out=out, real=real
  )
  assert call("real.npz") == 0
  report = json.loads(out.read_text())
  assert "splits" in report["interval"] and "bootstrap" not in report["interval"]
  record = report["scores"]["fakes"][0]
  assert record["title"].startswith("Inception score")
  assert record["value"] == pytest.approx(8) and record["reals"] == 0
  values = {name: rows[0]["value"] for name, rows in report["scores"].items()}
  assert values == {
    "fakes": pytest.approx(8),
    "ceiling: real clips": pytest.approx(8),
    "baseline: real clips, first frame repeated": pytest.approx(8),
    # The pixel goes elsewhere: all clips are of one class.
    "baseline: real clips, pixels shuffled": pytest.approx(1),
  }
  np.savez(tmp_path / "few.npz", clips[:3])
  assert call("few.npz") == 0
  report = json.loads(out.read_text())
  assert set(report["scores"]) == {"fakes"} | {
    f"baseline: fake clips, {name}" for name in ("first frame repeated", "pixels shuffled")
  }
  assert "gives 3 clips and not 8" in report["notes"][-1]
