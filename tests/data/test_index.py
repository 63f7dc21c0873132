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
  assert index.found(tree) == [cached]
  assert cached.is_relative_to(tmp_path / "cache") and cached.exists()
  assert index.load(tree)["deep/er/c.gif"] == entries["deep/er/c.gif"]


def test_a_folder_that_became_read_only_is_decoded_once(tree, make, monkeypatch):
  _build(tree)
  os.utime(tree / index.NAME, (1, 1))  # some time ago
  make.video(tree / "new.gif", 5)
  real = index.os.replace

  def refuse(source, target):
    if pathlib.Path(target).parent == tree:
      raise PermissionError(13, "read-only", str(target))
    real(source, target)

  asked = _spy(monkeypatch)
  with monkeypatch.context() as patch:
    patch.setattr(index.os, "replace", refuse)
    before = _build(tree)
    assert _build(tree) == before and before["new.gif"].n_frames == 5
    assert [list(names) for names in asked] == [["new.gif"]]
    assert index.found(tree) == list(reversed(index.paths(tree)))
  make.video(tree / "newer.gif", 4)  # it can be written again
  os.utime(index.paths(tree)[1], (2, 2))
  assert _build(tree) == _build(tree)
  assert len(asked) == 2 and index.found(tree)[0] == tree / index.NAME


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
  assert found[0]["error"].startswith("not decoded within 0 s, see --timeout")
  assert found[1] == found[2] == {"n_frames": 3}


def test_a_file_that_kills_its_decoder_is_named(tmp_path, monkeypatch):
  _fake_worker(tmp_path, monkeypatch, """
    import os, sys
    for line in sys.stdin:
      if "bomb" in line: os.abort()
      print('{"n_frames": 3}', flush=True)
    """)  # fmt: skip
  found = dict(probe.probe_all([{"path": n} for n in ("bomb", "b")], [0, 0]))
  assert found.pop(0)["error"].startswith("ended the process that decoded it, ")
  assert found == {1: {"n_frames": 3}}


def _spy(monkeypatch, answer=None, end_after=None):
  """Records what is decoded; {name: facts} answers instead, end_after is Ctrl-C."""
  asked = []
  real = probe.probe_all

  def probe_all(requests, sizes, timeout):
    names = [pathlib.Path(r["path"]).name for r in requests]
    asked.append(dict(zip(names, sizes)))
    for count, (position, facts) in enumerate(real(requests, sizes, timeout)):
      if count == end_after:
        raise KeyboardInterrupt
      yield position, (answer or {}).get(names[position], facts)

  monkeypatch.setattr(probe, "probe_all", probe_all)
  return asked


def test_a_folder_of_images_has_time_for_all_of_them(tmp_path, make, monkeypatch):
  root = tmp_path / "data"
  make.frames(root / "v1", 5)
  make.frames(root / "v2", 9)
  (root / "v2" / "notes.txt").write_text("not an image")
  asked = _spy(monkeypatch)
  _build(root, frames.scan)
  assert asked == [
    {v: sum(p.stat().st_size for p in (root / v).glob("*.png")) for v in ("v1", "v2")}
  ]
  monkeypatch.setattr(probe._Process, "ask", lambda self, request, limit: {"s": limit})
  assert list(probe.probe_all([{"path": "v"}], [2_500_000], 60)) == [(0, {"s": 62.5})]


@pytest.mark.parametrize("error", [
  "not decoded within 60 s", "ended the process that decoded it",  # of older indexes
  "not decoded within 60 s, see --timeout of lamd_jax.tools.index",
  "ended the process that decoded it, lamd_jax.tools.index tries again",
])  # fmt: skip
def test_what_failed_by_chance_is_tried_again_when_asked(tree, monkeypatch, error):
  with monkeypatch.context() as patch:
    _spy(patch, {"c.gif": {"error": error}})
    assert _build(tree)["deep/er/c.gif"].error == error
  asked = _spy(monkeypatch)
  # Training takes what is stored: its hosts must all see the same videos.
  assert _build(tree)["deep/er/c.gif"].error == error and not asked
  entries = _build(tree, again=True)
  assert entries["deep/er/c.gif"].n_frames == 6
  assert [sorted(names) for names in asked] == [["c.gif"]]  # content stays bad
  assert entries["text.mp4"].error
  assert _build(tree, again=True) == entries and len(asked) == 1


def test_an_interrupted_build_goes_on_where_it_was(tree, monkeypatch):
  monkeypatch.setattr(os, "cpu_count", lambda: 1)  # in the order of the list
  with monkeypatch.context() as patch:
    ended = {"error": "ended the process that decoded it"}
    asked = _spy(patch, {"a b#1 é.mp4": ended}, end_after=3)
    with pytest.raises(KeyboardInterrupt):
      _build(tree)
  names = list(asked[0])
  assert len(names) == 5 and names[0] == "a b#1 é.mp4"
  known = {pathlib.Path(path).name for path in index.load(tree)}
  # A worker that ended may have been ended by the interruption.
  assert known == set(names[1:3])
  assert not list(tree.glob("*.lock")) and not list(tree.glob("*.part"))
  asked = _spy(monkeypatch)
  assert _build(tree)["a b#1 é.mp4"].n_frames == 9
  assert set(asked[0]) == set(names) - known


def test_a_long_build_stores_now_and_then(tree, monkeypatch):
  seen = []
  real = probe.probe_all

  def probe_all(*arguments):
    for result in real(*arguments):
      seen.append(len(index.load(tree)))
      yield result

  monkeypatch.setattr(probe, "probe_all", probe_all)
  monkeypatch.setattr(index, "_STORE", -1.0)
  _build(tree)
  assert seen == [0, 1, 2, 3, 4] and len(index.load(tree)) == 5


def test_a_lock_is_alive_while_one_file_takes_long(tmp_path, monkeypatch):
  monkeypatch.setattr(index, "_STALE_LOCK", 0.2)
  with index._lock(tmp_path):
    (lock,) = tmp_path.glob("*.lock")
    os.utime(lock, (1, 1))
    time.sleep(0.5)
    assert lock.stat().st_mtime > 1
  assert not lock.exists()


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


def test_a_folder_that_cannot_be_written_is_locked_in_the_cache(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  absent = tmp_path / "absent"  # who runs this may write to any that is there
  with index._lock(absent):
    assert index.paths(absent)[1].with_suffix(".lock").exists()
  assert not list((tmp_path / "cache").rglob("*.lock"))
