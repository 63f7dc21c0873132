# SPDX-License-Identifier: Apache-2.0
"""python -m lamd_jax.tools.index as a user calls it."""

import os
import subprocess
import sys

import numpy as np
import pytest

from lamd_jax import media
from lamd_jax.data import index
from lamd_jax.errors import DataError
from lamd_jax.tools import index as tool


def _video(path, n):
  path.parent.mkdir(parents=True, exist_ok=True)
  media.write_mp4(path, np.zeros((n, 8, 8, 3), np.uint8), 8)


def test_command_names_bad_files_and_counts(tmp_path):
  _video(tmp_path / "train" / "a # b.mp4", 5)
  _video(tmp_path / "test" / "c.mp4", 6)
  (tmp_path / "test" / "zero.mp4").touch()
  done = subprocess.run(
    [sys.executable, "-m", "lamd_jax.tools.index", str(tmp_path)],
    capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert "bad: test/zero.mp4: " in done.stdout
  assert "3 videos (2 test, 1 train), 1 bad, 11 frames" in done.stdout
  assert "3 of 3 decoded, 1 bad" in done.stderr
  assert str(tmp_path / index.NAME) in done.stdout
  entries = index.load(tmp_path)
  assert entries["train/a # b.mp4"].split == "train"
  # The second call decodes nothing and says nothing of progress.
  again = subprocess.run(
    [sys.executable, "-m", "lamd_jax.tools.index", str(tmp_path)],
    capture_output=True, text=True,
  )  # fmt: skip
  assert again.stdout == done.stdout and "decoded" not in again.stderr


def test_what_took_too_long_is_tried_again(tmp_path, capsys):
  _video(tmp_path / "a.mp4", 5)
  with pytest.raises(DataError, match="none of the 1 videos can be read"):
    tool.run(str(tmp_path), "", 0.01)
  assert "bad: a.mp4: not decoded within 0 s, see --timeout" in capsys.readouterr().out
  assert tool.main([str(tmp_path), "--timeout=600"]) == 0
  assert "0 bad, 5 frames" in capsys.readouterr().out
  assert tool.main([str(tmp_path), "--timeout=0"]) == 2
  assert "--timeout=0: must be at least 1 second" in capsys.readouterr().err


def test_the_index_that_counts_is_named(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  root = tmp_path / "data"
  _video(root / "a.mp4", 5)
  assert tool.main([str(root)]) == 0
  cached = index.paths(root)[1]
  cached.parent.mkdir(parents=True)
  (root / index.NAME).rename(cached)
  (root / index.NAME).write_text("older")
  os.utime(root / index.NAME, (1, 1))
  capsys.readouterr()
  assert tool.main([str(root)]) == 0
  output = capsys.readouterr()
  assert f"index: {cached}" in output.out and "decoded" not in output.err


@pytest.mark.parametrize("case", ["missing", "empty", "all bad"])
def test_nothing_to_index_is_exit_3_and_one_line(tmp_path, capsys, case):
  root = tmp_path / "data"
  if case != "missing":
    root.mkdir()
  if case == "all bad":
    (root / "a.mp4").touch()
  assert tool.main([str(root)]) == 3
  error = [x for x in capsys.readouterr().err.splitlines() if "decoded" not in x]
  assert len(error) == 1 and str(root) in error[0]
