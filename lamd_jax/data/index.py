# SPDX-License-Identifier: Apache-2.0
"""The index: every video of a folder decoded once, the facts kept in one file.

`.lamd_index.jsonl` lies in the folder itself, or in the user's cache where that cannot
be written. It is replaced as a whole and brought up to date by size and time of change,
then by hash, so only new bytes are decoded. Bad files stay in it, with the reason. A
build that is interrupted leaves what it knows, and the next one goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import hashlib
import json
import os
import pathlib
import sys
import threading
import time

from absl import logging
import av

from lamd_jax.data import frame_folder
from lamd_jax.data import probe
from lamd_jax.data.records import Entry, Item

NAME = ".lamd_index.jsonl"

_HEADER = {"format": "lamd_index", "version": 1}
_STALE_LOCK = 120.0  # seconds without a sign of life
_PROGRESS = 2.0  # seconds between two lines
_STORE = 60.0  # seconds of decoding that a killed build loses at most


def paths(root: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """Returns where the index of `root` may lie: in it, and in the user's cache."""
  cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
  resolved = str(root.resolve()).encode("utf-8", "surrogateescape")
  key = hashlib.sha256(resolved).hexdigest()[:16]
  return root / NAME, cache / "lamd_jax" / "index" / f"{key}.jsonl"


def found(root: pathlib.Path) -> list[pathlib.Path]:
  """Returns the indexes of `root` that there are, the one written last first.

  Both are there where a folder became read-only, or writable, after the first build.
  """
  times = {}
  for path in paths(root):
    with contextlib.suppress(OSError):
      times[path] = path.stat().st_mtime_ns
  return sorted(times, key=times.__getitem__, reverse=True)


def load(root: pathlib.Path) -> dict[str, Entry]:
  """Returns the stored entries by path; none if there is no index or it is damaged."""
  for path in found(root):
    try:
      lines = path.read_text("utf-8").splitlines()
      if json.loads(lines[0])["version"] != _HEADER["version"]:
        continue
      entries = [_entry(json.loads(line)) for line in lines[1:]]
      return {entry.path: entry for entry in entries}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
      logging.warning("index %s is damaged (%s): built again", path, error)
  return {}


def _entry(fields: dict) -> Entry:
  entry = Entry(**fields)
  keyframes = tuple(tuple(key) for key in entry.keyframes)
  return entry._replace(keyframes=keyframes, grid=tuple(entry.grid))


def _write(root: pathlib.Path, entries: Sequence[Entry]) -> pathlib.Path:
  header = {**_HEADER, "decoder": f"pyav {av.__version__}"}
  # ASCII only: names that are no valid UTF-8 survive as escapes.
  text = "\n".join(json.dumps(x) for x in [header, *(e._asdict() for e in entries)])
  failure = None
  for path in paths(root):
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      partial.write_text(text + "\n", "utf-8")
      os.replace(partial, path)
      return path
    except OSError as error:
      failure = error
      with contextlib.suppress(OSError):
        partial.unlink()
  raise failure


@contextlib.contextmanager
def _lock(root: pathlib.Path) -> Iterator[None]:
  """One process builds, the others wait for it; a dead one's lock is taken over.

  It lies where the index will: of a folder that cannot be written in the user's cache,
  whose host's processes wait for each other.
  """
  held = next(filter(_take, _locks(root)), None)
  if held is None:  # everyone builds for himself
    yield
    return
  done = threading.Event()
  # A thread of its own: a large file can decode for longer than a lock may be silent.
  beat = threading.Thread(target=_beat, args=(held, done), daemon=True)
  beat.start()
  try:
    yield
  finally:
    done.set()
    beat.join()
    held.unlink(missing_ok=True)


def _locks(root: pathlib.Path) -> Iterator[pathlib.Path]:
  yield root / f"{NAME}.lock"
  cached = paths(root)[1].with_suffix(".lock")
  with contextlib.suppress(OSError):
    cached.parent.mkdir(parents=True, exist_ok=True)
  yield cached


def _take(path: pathlib.Path) -> bool:
  """Waits for a lock and takes it; False where none can be made."""
  while True:
    try:
      os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
      return True
    except FileExistsError:
      with contextlib.suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > _STALE_LOCK:
          path.unlink()
          continue
      logging.log_every_n_seconds(
        logging.INFO, "waiting for another process to index %s", 10, path.parent
      )
      time.sleep(0.2)
    except OSError:
      return False


def _beat(lock: pathlib.Path, done: threading.Event) -> None:
  while not done.wait(_STALE_LOCK / 4):
    with contextlib.suppress(OSError):
      os.utime(lock)


def _signature(root: pathlib.Path, item: Item) -> tuple[int, int]:
  try:
    stat = os.stat(root / item.path)
    # A folder's time of change moves when images come or go; its size means nothing.
    return (0 if item.kind == "frames" else stat.st_size), stat.st_mtime_ns
  except OSError:
    return -1, 0


def _bytes(root: pathlib.Path, item: Item) -> int:
  """Returns how much there is to decode, 0 if it is gone."""
  try:
    path = root / item.path
    return frame_folder.size(path) if item.kind == "frames" else path.stat().st_size
  except OSError:
    return 0


def _stale(
  root: pathlib.Path, items: Sequence[Item], known: Mapping[str, Entry], again: bool
) -> list[Item]:
  """Returns the items whose files are new or changed, or failed by chance."""

  def fresh(item: Item) -> bool:
    entry = known.get(item.path)
    if entry is None or (again and probe.by_chance(entry.error)):
      return False
    return (entry.size, entry.mtime_ns) == _signature(root, item)

  # A file that holds many videos is decoded once.
  once = {item.path: item for item in items}
  return [item for item in once.values() if not fresh(item)]


def _part(entry: Entry, item: Item) -> Entry:
  """Returns what an item has of its file: all of it, or some frames."""
  entry = entry._replace(**item._asdict())
  if not item.count or entry.error:
    return entry
  if item.start < 0 or item.start + item.count > entry.n_frames:
    last = item.start + item.count - 1
    error = f"frames {item.start} to {last} of a file of {entry.n_frames}"
    return entry._replace(n_frames=0, error=error)
  return entry._replace(n_frames=item.count)


def build(
  root: pathlib.Path,
  items: Sequence[Item],
  timeout: float = probe.TIMEOUT,
  again: bool = False,
) -> list[Entry]:
  """Returns an entry per item, decoding what is new, and stores the index.

  The index has one line a file; what a source says of an item (split, label, caption,
  frames) is taken afresh every time.

  Args:
    root: the folder.
    items: what a source lists in it.
    timeout: seconds that a file may take, beside one for each megabyte.
    again: whether files that took too long or ended their process are tried again.
      Tools do so; training does not, whose hosts must all see the same videos, and
      which opens its data many times.
  """
  known = load(root)
  if _stale(root, items, known, again):
    with _lock(root):
      known = load(root)  # another process may have built it meanwhile
      _decode(root, items, known, timeout, again)
  else:
    _store(root, items, known, list(known.values()))
  return [_part(known[item.path], item) for item in items]


def _decode(
  root: pathlib.Path,
  items: Sequence[Item],
  known: dict[str, Entry],
  timeout: float,
  again: bool,
) -> None:
  """Brings `known` up to date and stores it, now and then and at the end."""
  stored = list(known.values())
  stale = _stale(root, items, known, again)
  last = time.monotonic()
  # Kept apart to the end: whoever ends this program may have ended a worker first.
  failed: dict[str, Entry] = {}
  try:
    for entry in _probe(root, stale, known, timeout):
      (failed if probe.by_chance(entry.error) else known)[entry.path] = entry
      if time.monotonic() - last > _STORE:
        _store(root, items, known, stored)
        last = time.monotonic()
    known.update(failed)
  finally:
    # Also when interrupted, and before the lock is given up: who waits finds it.
    _store(root, items, known, stored)


def _store(
  root: pathlib.Path,
  items: Sequence[Item],
  known: Mapping[str, Entry],
  stored: Sequence[Entry],
) -> None:
  """Writes what is known of the items, unless it is what is stored."""
  whole = (item._replace(start=0, count=0) for item in items if item.path in known)
  lines = {item.path: _part(known[item.path], item) for item in whole}
  if list(lines.values()) == stored:
    return
  try:
    path = _write(root, list(lines.values()))
  except OSError as error:
    logging.warning("index of %s not stored, it will be built again: %s", root, error)
    return
  if path.parent != root:
    logging.info("%s cannot be written; its index is %s", root, path)


def _probe(
  root: pathlib.Path,
  items: Sequence[Item],
  known: Mapping[str, Entry],
  timeout: float,
) -> Iterator[Entry]:
  """Yields an entry per item, as they are decoded."""
  signatures = [_signature(root, item) for item in items]
  requests = []
  for item in items:
    before = known.get(item.path)
    same = before is not None and not before.error
    requests.append({
      "path": str(root / item.path),
      "kind": item.kind,
      "known_sha256": before.sha256 if same else "",
    })  # fmt: skip
  last = time.monotonic()
  bad = 0
  sizes = [_bytes(root, item) for item in items]
  results = probe.probe_all(requests, sizes, timeout)
  for count, (position, facts) in enumerate(results, 1):
    item, (size, mtime_ns) = items[position], signatures[position]
    if facts.pop("unchanged", False):
      entry = known[item.path]._replace(size=size, mtime_ns=mtime_ns)
    else:
      fields = {**item._asdict(), **facts, "size": size, "mtime_ns": mtime_ns}
      entry = _entry(fields)
    bad += bool(entry.error)
    if time.monotonic() - last > _PROGRESS or count == len(items):
      last = time.monotonic()
      # Not by the log, which users silence: this can take minutes.
      print(
        f"index {root}: {count} of {len(items)} decoded, {bad} bad",
        file=sys.stderr, flush=True,
      )  # fmt: skip
    yield entry
