# SPDX-License-Identifier: Apache-2.0
"""python -m lamd_jax.tools.prepare as a user calls it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from lamd_jax import media
from lamd_jax.tools import doctor
from lamd_jax.tools import prepare


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  root = tmp_path_factory.mktemp("videos with space")
  for i, n in enumerate((11, 7, 8)):
    path = root / ("test" if i == 2 else "train") / f"clip # {i}.mp4"
    path.parent.mkdir(exist_ok=True)
    level = np.arange(n, dtype=np.uint8)[:, None, None, None] * 20
    media.write_mp4(path, np.broadcast_to(level, (n, 16, 16, 3)).copy(), 8)
    path.with_suffix(".txt").write_text(f"caption {i}")
  return root


def _arguments(videos, out, *more):
  return [f"--root={videos}", f"--out={out}", "--frames=3", "--size=8",
          "--shard_clips=2", *more]  # fmt: skip


def _bytes(folder):
  return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def out(videos, tmp_path_factory):
  folder = tmp_path_factory.mktemp("out") / "clips"
  assert prepare.main(_arguments(videos, folder, "--workers=1")) == 0
  return folder


def test_says_what_it_did_and_does_nothing_twice(videos, out, capsys):
  before = _bytes(out)
  assert prepare.main(_arguments(videos, out, "--workers=1")) == 0
  found = capsys.readouterr()
  assert "train: 5 clips of 2 videos in 3 shards" in found.out
  assert "test: 2 clips of 1 videos in 1 shards" in found.out
  assert "4 of 4 shards are complete" in found.out and "done" not in found.err
  assert f"--config.data.source=array_record --config.data.root={out}" in found.out
  assert "--config.data.frames=3 --config.data.size=8 --config.data.stride=1" in found.out
  assert _bytes(out) == before


def test_doctor_knows_the_folder_and_its_damage(out, capsys, tmp_path):
  assert doctor.run(str(out)) == 0
  found = capsys.readouterr().out
  assert "ArrayRecord of prepared clips" in found and "train: 5 videos 8x8" in found
  assert "each as its SHA-256 says; 0 bad" in found
  assert "--config.data.stride=1" in found
  (tmp_path / "preparation.json").write_bytes((out / "preparation.json").read_bytes())
  assert doctor.run(str(tmp_path)) == 3
  assert "is not complete: start the same tools.prepare" in capsys.readouterr().out


@pytest.mark.parametrize(
  "more, message",
  [
    (["--siez=8"], "--siez=8: no such flag; did you mean --size?"),
    (["--temp_location=gs://bucket"], "flags of Beam need --runner"),
    (["--out=gs://bucket/clips"], "--out=gs://bucket/clips: is read and written as a"),
    (["--encode"], "--encode: needs --workdir=RUN"),
    (["--size=3"], "data.size=3: must lie between 8 and 4096"),
    (["--source=folders"], "choose one of"),
    (["--max_bad_fraction=0", "--frames=8"], "1 of 2 videos are bad"),
  ],
)
def test_refuses_in_one_line(videos, tmp_path, capsys, more, message):
  code = prepare.main([*_arguments(videos, tmp_path / "new"), *more])
  assert code == (3 if "bad" in message else 2)
  error = [x for x in capsys.readouterr().err.splitlines() if x.startswith("lamd_jax: ")]
  assert len(error) == 1 and message in error[0]


def test_a_folder_that_holds_anything_else_is_refused(videos, capsys):
  before = _bytes(videos)
  assert prepare.main(_arguments(videos, videos)) == 2
  assert f"--out={videos}: holds " in capsys.readouterr().err
  assert _bytes(videos) == before


def test_clips_longer_than_every_video_are_told_as_such(tmp_path, capsys):
  videos = tmp_path / "flat"
  videos.mkdir()
  for i in range(3):
    media.write_mp4(videos / f"{i}.mp4", np.zeros((8, 16, 16, 3), np.uint8), 8)
  assert prepare.main(_arguments(videos, tmp_path / "out", "--frames=60")) == 3
  assert "3 of 3 videos are bad, see " in capsys.readouterr().err
  reasons = (tmp_path / "out" / "corrupt.jsonl").read_text().splitlines()
  assert all("8 frames, a clip needs 60" in line for line in reasons)


def test_without_beam_a_runner_is_refused_with_the_fix(videos, tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  monkeypatch.delitem(sys.modules, "lamd_jax.tools.prepare_beam", raising=False)
  assert prepare.main(_arguments(videos, tmp_path, "--runner=DirectRunner")) == 2
  error = capsys.readouterr().err
  assert 'pip install "lamd_jax[beam]"' in error and len(error.splitlines()) == 1


@pytest.mark.slow
def test_processes_write_the_bytes_of_one(videos, out, tmp_path):
  command = [sys.executable, "-m", "lamd_jax.tools.prepare"]
  arguments = _arguments(videos, tmp_path / "clips", "--workers=2")
  subprocess.run([*command, *arguments], check=True)
  assert _bytes(tmp_path / "clips") == _bytes(out)


@pytest.mark.slow
def test_beam_writes_the_bytes_of_one_process(videos, out, tmp_path):
  pytest.importorskip("apache_beam", reason="apache-beam is not installed: lamd_jax[beam]")
  folder = tmp_path / "clips"
  more = ("--runner=DirectRunner", "--direct_num_workers=2")
  assert prepare.main(_arguments(videos, folder, *more)) == 0
  assert _bytes(folder) == _bytes(out)
  # One shard lost: it alone is done again.
  lost = folder / "train-00001-of-00003.array_record"
  kept = (folder / "train-00000-of-00003.array_record").stat().st_mtime_ns
  lost.unlink()
  assert prepare.main(_arguments(videos, folder, *more)) == 0
  assert _bytes(folder) == _bytes(out)
  assert (folder / "train-00000-of-00003.array_record").stat().st_mtime_ns == kept
