# SPDX-License-Identifier: Apache-2.0
"""Decodes files in processes of their own: no file can hang or kill the program.

`python -m lamd_jax.data.probe` is the worker: a JSON object a line in, one a line out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import hashlib
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
from typing import Any

from lamd_jax.data import frame_folder
from lamd_jax.data import softmotion
from lamd_jax.data import video_file

# A file, or a folder of images, gets this long and a second more for each megabyte.
TIMEOUT = 60.0

# Beginnings of errors that say nothing of the bytes. Indexes hold them: they stay.
_EXPIRED = "not decoded within"
_ENDED = "ended the process that decoded it"


def by_chance(error: str) -> bool:
  """Whether a file could be decoded another time: with more time, or more memory."""
  return error.startswith((_EXPIRED, _ENDED))


def _sha256(path: str, kind: str) -> str:
  digest = hashlib.sha256()
  names = frame_folder.names(path) if kind == "frames" else [""]
  for name in names:
    digest.update(name.encode("utf-8", "surrogateescape"))
    with open(os.path.join(path, name) if name else path, "rb") as file:
      while block := file.read(1 << 20):
        digest.update(block)
  return digest.hexdigest()


def facts(path: str, kind: str, known_sha256: str) -> dict[str, Any]:
  """Returns the fields of an index entry that come out of the file.

  `unchanged` is set instead of the rest if the bytes have the known hash.
  """
  try:
    sha256 = _sha256(path, kind)
    if sha256 == known_sha256:
      return {"unchanged": True}
    if kind == "frames":
      n_frames, height, width = frame_folder.probe(path)
      found = {"n_frames": n_frames, "height": height, "width": width}
    elif kind in softmotion.CAMERAS:
      found = softmotion.probe(path)
    else:
      found = video_file.probe(path)._asdict()
    return {**found, "sha256": sha256}
  except Exception as error:  # PyAV raises many kinds, UnicodeDecodeError among them
    # PyAV's own text repeats number and path, which the index has.
    text = error.strerror if isinstance(error, OSError) else str(error)
    lines = f"{type(error).__name__}: {text}".splitlines()
    return {"error": lines[0][:200]}


def _worker() -> None:
  for line in sys.stdin:
    print(json.dumps(facts(**json.loads(line))), flush=True)


class _Process:
  """A worker process and the clock that ends it."""

  def __init__(self):
    self._process: subprocess.Popen | None = None

  def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
    process = self._process or self._start()
    expired = threading.Event()
    clock = threading.Timer(timeout, lambda: (expired.set(), process.kill()))
    clock.start()
    try:
      process.stdin.write(json.dumps(request) + "\n")
      process.stdin.flush()
      answer = process.stdout.readline()
    except OSError:
      answer = ""
    finally:
      clock.cancel()
    if answer:
      return json.loads(answer)
    self.close()
    if expired.is_set():
      again = "see --timeout of lamd_jax.tools.index"
      return {"error": f"{_EXPIRED} {timeout:.0f} s, {again}"}
    return {"error": f"{_ENDED}, lamd_jax.tools.index tries again"}

  def _start(self) -> subprocess.Popen:
    package = pathlib.Path(__file__).resolve().parents[2]
    path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
    self._process = subprocess.Popen(
      [sys.executable, "-m", "lamd_jax.data.probe"],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
      env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    return self._process

  def close(self) -> None:
    if self._process is not None:
      self._process.kill()
      self._process.wait()
      self._process.stdin.close()
      self._process.stdout.close()
      self._process = None


def probe_all(
  requests: Sequence[dict[str, Any]], sizes: Sequence[int], timeout: float = TIMEOUT
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (position, facts) of every request {path, kind, known_sha256}, as done."""
  todo: queue.SimpleQueue[int] = queue.SimpleQueue()
  done: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
  for position in range(len(requests)):
    todo.put(position)
  stop = threading.Event()

  def work() -> None:
    process = _Process()
    try:
      while not stop.is_set():
        position = todo.get_nowait()
        limit = timeout + sizes[position] / 1e6
        done.put((position, process.ask(requests[position], limit)))
    except queue.Empty:
      pass
    finally:
      process.close()

  count = min(os.cpu_count() or 1, 32, len(requests))
  threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
  for thread in threads:
    thread.start()
  try:
    for _ in requests:
      yield done.get()
  finally:
    stop.set()
    for thread in threads:
      thread.join()


if __name__ == "__main__":
  _worker()
