# SPDX-License-Identifier: Apache-2.0
"""The index: what is bad and why, nothing decoded twice, nothing half written."""

import json
import os
import pathlib
import shutil
import stat
import sys
import textwrap
import time

import pytest

from lamd_jax.data import index
from lamd_jax.data import probe
from lamd_jax.data.sources import folder, frames


@pytest.fixture
def tree(tmp_path, make, data_config):
  root = tmp_path / "data"
  make.video(root / "a b#1 é.mp4", 9, fps=12, height=26, width=38)
  make.video(root / "deep" / "er" / "c.gif", 6)
  good = make.video(root / "cut.avi", 30)
  good.write_bytes(good.read_bytes()[:900])
  (root / "empty.mp4").touch()
  (root / "text.mp4").write_text("not a video\n" * 30)
  return root


def _build(root, scan=folder.scan, **kwargs):
  entries = index.build(root, scan(root).items, **kwargs)
  return {entry.id: entry for entry in entries}


def test_good_and_bad_files_are_told_apart(tree):
  entries = _build(tree)
  good = entries["a b#1 é.mp4"]
  assert (good.n_frames, good.fps, good.height, good.width) == (9, 12, 26, 38)
  assert len(good.sha256) == 64 and good.error == ""
  assert entries["deep/er/c.gif"].n_frames == 6
  for name in ("empty.mp4", "text.mp4", "cut.avi"):
    assert entries[name].error and entries[name].n_frames == 0
  stored = [json.loads(x) for x in (tree / index.NAME).read_text().splitlines()]
  assert stored[0]["decoder"].startswith("pyav")
  assert len(stored) == 6
  assert index.load(tree) == {entry.path: entry for entry in entries.values()}


def test_only_new_bytes_are_decoded(tree, make, monkeypatch):
  before = _build(tree)
  asked = []
  real = probe.probe_all

  def spy(requests, sizes, timeout):
    asked.extend(pathlib.Path(r["path"]).name for r in requests)
    yield from real(requests, sizes, timeout)

  monkeypatch.setattr(probe, "probe_all", spy)
  assert _build(tree) == before
  assert asked == []
  make.video(tree / "new.mp4", 5)
  os.utime(tree / "a b#1 é.mp4", (1, 1))  # touched, same bytes
  after = _build(tree)
  assert sorted(asked) == ["a b#1 é.mp4", "new.mp4"]
  assert after["a b#1 é.mp4"] == before["a b#1 é.mp4"]._replace(mtime_ns=10**9)
  (tree / "new.mp4").unlink()
  assert "new.mp4" not in _build(tree)
  make.video(tree / "empty.mp4", 7)  # mended
  assert _build(tree)["empty.mp4"].n_frames == 7


def test_same_bytes_are_hashed_and_not_decoded(tmp_path, make):
  path = str(make.video(tmp_path / "a.mp4", 5))
  sha256 = probe.facts(path, "video", "")["sha256"]
  assert probe.facts(path, "video", sha256) == {"unchanged": True}


def test_damaged_index_is_built_again(tree):
  before = _build(tree)
  path = tree / index.NAME
  path.write_text(path.read_text()[:300])
  assert _build(tree) == before
  assert not list(tree.glob("*.part")) and not list(tree.glob("*.lock"))


def test_read_only_folder_is_indexed_in_the_users_cache(tree, monkeypatch, tmp_path):
  real = pathlib.Path.write_text

  def refuse(self, *args, **kwargs):
    if self.parent == tree:
      raise PermissionError(13, "read-only", str(self))
    return real(self, *args, **kwargs)

  # chmod does not bind root, who runs many test machines.
  monkeypatch.setattr(pathlib.Path, "write_text", refuse)
  entries = _build(tree)
  assert not (tree / index.NAME).exists()
  cached = index.paths(tree)[1]
  assert cached.is_relative_to(tmp_path / "cache") and cached.exists()
  assert index.load(tree)["deep/er/c.gif"] == entries["deep/er/c.gif"]


def test_a_dead_builders_lock_is_taken_over(tree):
  lock = tree / (index.NAME + ".lock")
  lock.touch()
  os.utime(lock, (1, 1))
  started = time.monotonic()
  assert _build(tree)["deep/er/c.gif"].n_frames == 6
  assert time.monotonic() - started < 20 and not lock.exists()


def _fake_worker(tmp_path, monkeypatch, body):
  """A decoder that misbehaves, in place of the Python that runs the real one."""
  script = tmp_path / "worker"
  script.write_text(f"#!{sys.executable}\n" + textwrap.dedent(body))
  script.chmod(script.stat().st_mode | stat.S_IXUSR)
  monkeypatch.setattr(sys, "executable", str(script))


def test_a_file_that_hangs_is_given_up(tmp_path, monkeypatch):
  _fake_worker(tmp_path, monkeypatch, """
    import sys, time
    for line in sys.stdin:
      if "slow" in line: time.sleep(60)
      print('{"n_frames": 3}', flush=True)
    """)  # fmt: skip
  requests = [{"path": name} for name in ("slow", "b", "c")]
  found = dict(probe.probe_all(requests, [0, 0, 0], timeout=0.5))
  assert found[0] == {"error": "not decoded within 0 s"} or "0.5" in str(found[0])
  assert found[1] == found[2] == {"n_frames": 3}


def test_a_file_that_kills_its_decoder_is_named(tmp_path, monkeypatch):
  _fake_worker(tmp_path, monkeypatch, """
    import os, sys
    for line in sys.stdin:
      if "bomb" in line: os.abort()
      print('{"n_frames": 3}', flush=True)
    """)  # fmt: skip
  found = dict(probe.probe_all([{"path": n} for n in ("bomb", "b")], [0, 0]))
  assert found == {0: {"error": "ended the process that decoded it"}, 1: {"n_frames": 3}}


def test_folders_of_images(tmp_path, make, data_config):
  root = tmp_path / "data"
  make.frames(root / "v1", 5)
  make.frames(root / "v2", 4)
  (root / "v2" / "frame2.png").write_bytes(b"\x89PNG broken")
  entries = _build(root, frames.scan)
  assert entries["v1"].n_frames == 5 and entries["v1"].width == 32
  assert "frame2.png" in entries["v2"].error
  shutil.rmtree(root / "v2")
  make.frames(root / "v2", 6)
  assert _build(root, frames.scan)["v2"].n_frames == 6
