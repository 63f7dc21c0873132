# SPDX-License-Identifier: Apache-2.0
"""A stream broken off anywhere and started again is the unbroken stream."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import weakref

import numpy as np
from PIL import Image
import pytest

from lamd_jax import journal as journal_lib
from lamd_jax import media
from lamd_jax import segments
from lamd_jax import stream_page
from lamd_jax.errors import ConfigError
from lamd_jax.modes import stream
from lamd_jax.modes import units
from lamd_jax.training import preemption

SETTINGS = {"seed": 3, "sample": {"long": "autoregressive"}}
LENGTHS = (5, 7, 7)  # the frames of unit 0, 1 and of all that follow


class Fake:
  """Units whose frames hang on every bit of the carry."""

  def __init__(self, frames, lengths=LENGTHS, side=32, before=lambda k: None):
    self.frames = frames
    self._lengths, self._side, self._before = lengths, side, before
    self.made = []
    self.units = 1
    while sum(map(self._length, range(self.units))) < frames:
      self.units += 1

  def _length(self, k):
    return self._lengths[min(k, len(self._lengths) - 1)]

  def unit(self, k, carry):
    self._before(k)
    self.made.append(k)
    assert (carry == {}) == (k == 0)
    seed = [k] if k == 0 else list(carry["state"].view(np.uint32))
    rng = np.random.default_rng(seed)
    shape = (self._length(k), self._side, self._side, 3)
    ramp = np.arange(shape[0], dtype=np.uint8)[:, None, None, None] * 9
    frames = rng.integers(0, 256, (1, 4, 4, 3), np.uint8).repeat(
      self._side // 4, 1
    ).repeat(self._side // 4, 2)
    return np.broadcast_to(frames // 2 + ramp, shape), {
      "state": rng.standard_normal(4, np.float32),
      "latents": rng.standard_normal((2, 4, 4, 1), np.float32),
    }

  def whole(self):
    """The frames of the unbroken run [frames,H,W,3], computed without files."""
    parts, carry = [], {}
    for k in range(self.units):
      frames, carry = Fake.unit(self, k, carry)
      parts.append(frames)
    self.made.clear()
    return np.concatenate(parts)[: self.frames]


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch):
  """Runs end by exceptions here, not by power cuts, and disks are slow."""
  monkeypatch.setattr(os, "fsync", lambda handle: None)


def _run(source, folder, formats=("mp4",), stop=None, settings=SETTINGS, fps=8):
  stop = stop or preemption.Stop()
  return stream.run(source, folder, fps, settings, formats, stop)


def _bytes(folder, pattern):
  return {p.name: p.read_bytes() for p in sorted(folder.glob(pattern))}


def _decoded(folder):
  """The frames of the segments, and how many each has."""
  parts = [media.read_video(p)[0] for p in sorted(folder.glob("segments/*"))]
  return np.concatenate(parts), [len(part) for part in parts]


def _assert_same(folder, other):
  """All that is exact is equal; what is encoded anew may differ by the encoder."""
  for pattern in ("latents/*", "frames/*", "*.npy", "index.html", "progress.js"):
    assert _bytes(folder, pattern) == _bytes(other, pattern), pattern
  journals = [json.loads((f / "journal.json").read_text()) for f in (folder, other)]
  hashes = [[unit["frames_sha256"] for unit in j["units"]] for j in journals]
  assert hashes[0] == hashes[1] and hashes[0]
  (ours, counts), (theirs, expected) = _decoded(folder), _decoded(other)
  assert counts == expected
  assert abs(ours.astype(int) - theirs).mean() < 2  # a quantizer's step
  np.testing.assert_array_equal(media.read_video(folder / "video.mp4")[0], ours)
  gif, sheet = (Image.open(folder / name) for name in ("video.gif", "sheet.png"))
  assert gif.n_frames == len(ours)
  assert sheet.size == Image.open(other / "sheet.png").size


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  folder = tmp_path_factory.mktemp("unbroken")
  _run(Fake(30), folder, ("mp4", "npz", "png", "gif"))
  return folder


@pytest.mark.parametrize("frames", [1, 63, 64, 65, 1000])
def test_exactly_the_frames_asked_for(tmp_path, frames):
  source = Fake(frames, (36, 48))
  expected = source.whole()
  path = _run(source, tmp_path / "a # b", ("mp4", "npz"))
  assert path == tmp_path / "a # b" / "video.mp4"
  assert source.made == list(range(source.units))
  video, fps = media.read_video(path)
  assert len(video) == frames == len(expected) and fps == 8
  np.testing.assert_array_equal(np.load(path.with_name("frames.npy")), expected)
  parts = [media.read_video(p)[0] for p in sorted(path.parent.glob("segments/*"))]
  np.testing.assert_array_equal(video, np.concatenate(parts))
  # The right frame in the right place: lossy, but other units differ far more.
  error = abs(video.astype(int) - expected).mean()
  assert error < 10
  if frames > 36:
    assert abs(video.astype(int) - np.roll(expected, 36, axis=0)).mean() > 2 * error


def test_files_of_a_finished_stream(unbroken):
  whole = Fake(30).whole()
  pngs = sorted((unbroken / "frames").iterdir())
  assert [p.name for p in pngs[:2]] == ["000000.png", "000001.png"]
  np.testing.assert_array_equal([np.asarray(Image.open(p)) for p in pngs], whole)
  assert Image.open(unbroken / "video.gif").n_frames == 30
  record = json.loads((unbroken / "stream.json").read_text())
  assert record["finished"] and record["frames"] == 30
  assert len(record["seconds_of_units"]) == 5 and min(record["seconds_of_units"]) > 0
  assert record["settings"]["fps"] == 8 and record["settings"]["seed"] == 3
  assert not [p for p in unbroken.rglob("*") if p.name.startswith(".")]


def test_sheet_spans_the_whole_video(unbroken):
  sheet = np.asarray(Image.open(unbroken / "sheet.png"))
  video, _ = media.read_video(unbroken / "video.mp4")
  assert sheet.shape == (3 * 33 - 1, 8 * 33 - 1, 3)
  np.testing.assert_array_equal(sheet[:32, :32], video[0])
  np.testing.assert_array_equal(sheet[-32:, -32:], video[-1])
  np.testing.assert_array_equal(sheet[:32, 33:65], video[1])  # 29 / 23 is near to 1


class Killed(BaseException):
  """Stands for the end of the process: nothing catches it."""


def _kill_at(monkeypatch, place, k):
  """Ends the run at `place` of unit k."""
  if place == "after segment":
    inner = segments.write_segment

    def write_segment(path, frames, fps):
      inner(path, frames, fps)
      if path.name == f"{k:05d}.mp4":
        raise Killed

    monkeypatch.setattr(segments, "write_segment", write_segment)
    return
  inner_replace = media.os.replace
  name = {
    "in segment": f"{k:05d}.mp4",
    "in shard": f"{k:05d}.npz",
    "in journal": "journal.json",
    "in join": "video.mp4",
    "in page": "progress.js",
  }[place]
  seen = []

  def replace(source, target):
    seen.append(pathlib.Path(target).name)
    # The journal and the page are written once for each unit.
    at = k + 1 if name in ("journal.json", "progress.js") else 1
    if seen.count(name) == at:
      raise Killed
    inner_replace(source, target)

  monkeypatch.setattr(media.os, "replace", replace)


@pytest.mark.parametrize(
  ("place", "k", "again"),
  [
    ("in segment", 0, 0),
    ("after segment", 2, 2),
    ("in shard", 2, 2),
    ("in journal", 0, 0),
    ("in journal", 3, 3),
    ("in page", 2, 3),
    ("in join", 4, 5),
  ],
)
def test_killed_and_continued(tmp_path, unbroken, monkeypatch, place, k, again):
  formats = ("mp4", "npz", "png", "gif")
  _kill_at(monkeypatch, place, k)
  with pytest.raises(Killed):
    _run(Fake(30), tmp_path, formats)
  monkeypatch.undo()
  kept = {f"{i:05d}.mp4" for i in range(again)}
  before = _bytes(tmp_path, "segments/*")
  source = Fake(30)
  _run(source, tmp_path, formats)
  assert source.made == list(range(again, 5))
  after = _bytes(tmp_path, "segments/*")
  assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
  _assert_same(tmp_path, unbroken)


def test_broken_off_inside_every_unit(tmp_path, unbroken):
  def fail(k):
    raise Killed

  for k in range(5):
    with pytest.raises(Killed):
      _run(Fake(30, before=lambda at, k=k: at == k and fail(k)), tmp_path,
           ("mp4", "npz", "png", "gif"))  # fmt: skip
  _run(Fake(30), tmp_path, ("mp4", "npz", "png", "gif"))
  _assert_same(tmp_path, unbroken)


def test_finished_before_does_nothing(unbroken, capsys):
  before = {p: p.stat().st_mtime_ns for p in unbroken.rglob("*")}
  source = Fake(30)
  _run(source, unbroken, ("mp4", "npz", "png", "gif"))
  assert source.made == [] and "finished before" in capsys.readouterr().out
  assert {p: p.stat().st_mtime_ns for p in unbroken.rglob("*")} == before


@pytest.mark.parametrize(
  ("name", "again"),
  [
    ("segments/00003.mp4", [3, 4]),
    ("latents/00004.npz", [4]),
    ("frames.npy", [2, 3, 4]),
    ("frames/000029.png", [4]),
    ("video.mp4", []),
    ("video.gif", []),
    ("journal.json", [0, 1, 2, 3, 4]),
  ],
)
def test_damaged_files_are_made_again(tmp_path, unbroken, caplog, name, again):
  formats = ("mp4", "npz", "png", "gif")
  _run(Fake(30), tmp_path, formats)
  path = tmp_path / name
  if name == "frames.npy":
    frames = np.load(path, mmap_mode="r+")
    frames[12, 3, 3, 1] ^= 1  # the first frame of unit 2
    frames.flush()
  else:
    path.unlink()
  source = Fake(30)
  with caplog.at_level("WARNING"):
    _run(source, tmp_path, formats)
  assert source.made == again
  said = [r for r in caplog.records if "made again" in r.getMessage()]
  assert len(said) == (1 if 0 < len(again) < 5 else 0)
  _assert_same(tmp_path, unbroken)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"settings": {**SETTINGS, "seed": 4}}, "seed=4: .* begun with 3"),
    ({"fps": 7.5}, "fps=7.5: .* begun with 8"),
    ({"source": Fake(31)}, "frames=31: .* begun with 30"),
  ],
)
def test_other_settings_are_refused(unbroken, change, message):
  with pytest.raises(ConfigError, match=message):
    _run(**{"source": Fake(30), "folder": unbroken, **change})


def test_stop_finishes_the_unit(tmp_path):
  stop = preemption.Stop()
  source = Fake(30, before=lambda k: k == 1 and stop.request())
  with pytest.raises(preemption.Preempted):
    _run(source, tmp_path, stop=stop)
  assert source.made == [0, 1]
  record = json.loads((tmp_path / "stream.json").read_text())
  assert record["frames"] == 12 and not record["finished"]
  assert not (tmp_path / "video.mp4").exists()


def test_ctrl_c_finishes_the_unit_and_gives_the_handler_back(tmp_path):
  handler = signal.getsignal(signal.SIGINT)
  source = Fake(30, before=lambda k: k == 1 and signal.raise_signal(signal.SIGINT))
  with pytest.raises(KeyboardInterrupt):
    _run(source, tmp_path)
  assert source.made == [0, 1] and signal.getsignal(signal.SIGINT) is handler
  assert len(json.loads((tmp_path / "journal.json").read_text())["units"]) == 2


def test_ctrl_c_twice_does_not_wait(tmp_path):
  def twice(k):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)

  source = Fake(30, before=twice)
  with pytest.raises(KeyboardInterrupt):
    _run(source, tmp_path)
  assert source.made == []


def test_too_few_frames_are_an_error(tmp_path):
  source = Fake(30)
  source.units = 2
  with pytest.raises(ValueError, match="2 units made 12 of 30 frames"):
    _run(source, tmp_path)


class Counted(Fake):
  """Counts the arrays it handed out that are still held."""

  def __init__(self, frames, length, side):
    super().__init__(frames, (length,), side)
    self.held, self.most = 0, 0

  def _released(self):
    self.held -= 1

  def unit(self, k, carry):
    frames, carry = super().unit(k, carry)
    frames = np.array(frames)
    for array in (frames, *carry.values()):
      self.held += 1
      weakref.finalize(array, self._released)
    self.most = max(self.most, self.held)
    return frames, carry


def test_hundreds_of_units_hold_the_arrays_of_two(tmp_path):
  held = []
  for count in (20, 400):
    source = Counted(count, length=1, side=8)
    _run(source, tmp_path / str(count), ("mp4", "npz"))
    held.append(source.most)
  # Of the unit before and of this one: frames and two arrays each.
  assert held[0] == held[1] <= 6


_PEAKS = """
import pathlib, sys, tracemalloc
import test_stream
for count in (1, 20, 120):  # the first imports what comes late
  source = test_stream.Fake(8 * count, (8,), side=96)
  tracemalloc.start()
  test_stream._run(source, pathlib.Path(sys.argv[1]) / str(count), ("mp4", "npz"))
  print("peak", tracemalloc.get_traced_memory()[1])
  tracemalloc.stop()
"""


def test_memory_does_not_grow_with_the_video(tmp_path):
  # In a process of its own: tracing counts every thread, those too that earlier tests
  # left to finish in the background.
  done = subprocess.run(
    [sys.executable, "-c", _PEAKS, str(tmp_path)],
    cwd=pathlib.Path(__file__).parent,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  peaks = [int(n) for n in re.findall(r"^peak (\d+)$", done.stdout, re.M)]
  # The frames of the short one are 4 MB, those of the long one 27 MB.
  assert peaks[2] < 1.2 * peaks[1] < 4e6


class _Terminal:
  """Collects what is printed, as a terminal or as a file."""

  def __init__(self, live):
    self.text, self._live = "", live

  def isatty(self):
    return self._live

  def write(self, text):
    self.text += text

  def flush(self):
    pass


def test_line_counts_frames_and_leaves_out_the_first_unit(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(units.time, "monotonic", lambda: now[0])
  out = _Terminal(live=True)
  line = units.Line(1024, 0, out)
  for now[0], done in ((60.0, 64), (65.0, 128), (70.0, 192)):
    line.advance(done)
  line.close()
  shown = [text.strip() for text in out.text.split("\r")[1:]]
  assert shown == [
    "0/1024 frames  compiling",
    "64/1024 frames",
    # 64 frames in the 5 s after the first unit; 896 and 832 are left.
    "128/1024 frames  12.8 frames/s  ETA 1:10",
    "192/1024 frames  12.8 frames/s  ETA 1:05",
  ]
  assert out.text.endswith("\n") and out.text.count("\n") == 1


def test_line_is_rare_where_it_goes_to_a_file(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(units.time, "monotonic", lambda: now[0])
  out = _Terminal(live=False)
  line = units.Line(100, 0, out)
  for done in range(1, 101):
    now[0] += 0.3
    line.advance(done)
  lines = out.text.splitlines()
  # 30 s: at 0 s, near 10 and 20 s, and the last.
  assert 3 <= len(lines) <= 5 and lines[-1].startswith("100/100 frames")


def test_page_escapes_and_names_what_is_there(tmp_path):
  stream_page.write(tmp_path, {"text": "<b>a & b</b>", "sample": {"seed": 1}})
  page = (tmp_path / "index.html").read_text("utf-8")
  assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in page and "<b>" not in page
  assert "sample.seed" in page and not re.search(r"https?:", page)
  stream_page.tell(tmp_path, frames=12, asked=30, segments=2, video="")
  told = (tmp_path / "progress.js").read_text("utf-8")
  state = json.loads(re.fullmatch(r"show\((.*)\);\n", told)[1])
  assert state == {"frames": 12, "asked": 30, "segments": 2, "video": ""}
  # The page computes the names of the segments as the journal does.
  name = journal_lib.Journal(tmp_path, {}).segment(7).relative_to(tmp_path)
  assert name.as_posix() == "segments/" + "7".rjust(5, "0") + ".mp4"
  assert "'segments/'+String(i).padStart(5,'0')+'.mp4'" in page
