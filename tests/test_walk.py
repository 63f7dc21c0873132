# SPDX-License-Identifier: Apache-2.0
"""A newcomer's walk through the README: its own commands, in an environment of their own.

Only the numbers of steps are cut, so that the walk takes minutes. What is typed is read
from the README: a command that is reworded there is walked as reworded.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import time
import venv

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow
_SHORT = ["--config.optim.autoencoder.steps=60", "--config.optim.diffusion.steps=30"]
_MAIN = "python -m lamd_jax.main"
_RUN = "runs/lvdm_sky-demo"

_MAKE_VIDEOS = """
import pathlib, numpy as np
from lamd_jax import media
folder = pathlib.Path("my videos")
folder.mkdir()
for i in range(12):
  t, y, x, c = np.indices((40, 48, 64, 3))
  frames = (x * 3 + y * (i + 1) + t * 4 + c * 60) % 256
  media.write_mp4(folder / f"clip {i}.mp4", frames.astype(np.uint8), 12)
(folder / "broken.mp4").write_bytes(b"not a video")
"""


def _readme():
  return (ROOT / "README.md").read_text("utf-8")


def _typed(*parts):
  """The one command of the README's inline code that begins so, as words."""
  prose = re.sub(r"^```.*?^```", "", _readme(), flags=re.MULTILINE | re.DOTALL)
  found = [
    code for code in re.findall(r"`([^`]+)`", prose)
    if code.startswith(parts[0]) and all(part in code for part in parts)
  ]  # fmt: skip
  assert found, f"the README has no command {parts}"
  return shlex.split(found[0])


class Walk:
  """A copy of the project and an environment that knows nothing of this one."""

  def __init__(self, folder):
    self.folder = folder
    names = subprocess.run(
      ["git", "ls-files", "-co", "--exclude-standard"],
      cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
      if (ROOT / name).is_file():
        (folder / "lamd" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / "lamd" / name)
    venv.create(folder / "venv", with_pip=True)
    kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
    self.environment = {
      **kept, "PATH": f"{folder / 'venv' / 'bin'}:{kept['PATH']}",
      "LAMD_COMPILE_CACHE": str(folder / "cache"),
    }  # fmt: skip

  @property
  def here(self):
    return self.folder / "lamd"

  def start(self, words):
    return subprocess.Popen(
      words, cwd=self.here, env=self.environment, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip

  def go(self, words, code=0):
    process = self.start(words)
    said, _ = process.communicate()
    assert process.returncode == code, f"{shlex.join(words)}\n{said}"
    return said


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
  """Installed by the README's first command, the demo trained by its second half."""
  walk = Walk(tmp_path_factory.mktemp("walk"))
  block = re.search(r"## Two commands\s+```\n(.+?)\n```", _readme(), re.DOTALL)[1]
  install, demo = (shlex.split(part) for part in block.split("&&"))
  walk.go(install)
  walk.demo = [*demo, *_SHORT]
  yield walk
  # More than a GiB, of which pytest would keep the last three.
  shutil.rmtree(walk.folder / "venv")


def test_help_fits_a_screen(walk):
  said = walk.go([*shlex.split(_MAIN), "--help"])
  assert len(said.splitlines()) <= 40


def test_the_demo_stops_when_told_and_goes_on(walk):
  run = walk.here / _RUN
  process = walk.start(walk.demo)
  deadline = time.monotonic() + 600
  while "autoencoder" not in _status(run) and time.monotonic() < deadline:
    assert process.poll() is None, process.communicate()[0]
    time.sleep(0.5)
  process.send_signal(signal.SIGTERM)
  said, _ = process.communicate()
  assert process.returncode == 75, said
  walk.go(walk.demo)
  assert (run / "gallery" / "index.html").is_file()
  rows = (run / "autoencoder" / "metrics.jsonl").read_text().splitlines()
  steps = [json.loads(row)["step"] for row in rows]
  assert steps == sorted(set(steps)) and steps[-1] == 60
  assert json.loads(_status(run))["state"] == "finished"


def _status(run):
  path = run / "STATUS"
  return path.read_text() if path.is_file() else ""


def test_the_run_is_sampled_scored_passed_on_and_loaded(walk):
  sample = _typed(_MAIN, _RUN, "--sample.sampler=dpmpp_2m")
  walk.go([*(w.replace("n=16", "n=2") for w in sample), "--sample.steps=2"])
  walk.go([*_typed(_MAIN, _RUN, "--mode=evaluate"), "--eval.clips=16", "--eval.steps=2"])
  walk.go(_typed("python -m lamd_jax.tools.export"))
  code = re.search(r"## In Python.+?```python\n(.+?)```", _readme(), re.DOTALL)[1]
  code = code.replace(".show()", "")  # needs a notebook
  walk.go(["python", "-c", code])
  assert (walk.here / "sky.mp4").is_file()


def test_own_videos_are_checked_trained_and_sampled(walk):
  walk.go(["python", "-c", _MAKE_VIDEOS])
  place = lambda words: [word.replace("DIR", "my videos") for word in words]
  said = walk.go(place(_typed("python -m lamd_jax.tools.doctor DIR")))
  assert "broken.mp4" in said
  walk.go([*place(_typed(_MAIN, "configs/own_videos.py")), *_SHORT])
  run = next((walk.here / "runs").glob("own_videos*"))
  walk.go([*shlex.split(_MAIN), f"--workdir={run}", "--mode=sample", "--sample.n=1",
           "--sample.steps=2"])  # fmt: skip


def test_a_slip_is_told_in_one_line(walk):
  words = shlex.split(_MAIN)
  said = walk.go([*words, "--config=configs/lvdm_sky.py:demo", "--config.data.sise=32"], 2)
  assert "size" in said and len(said.strip().splitlines()) == 1
  said = walk.go([*words, "--config=configs/own_videos.py", "--config.data.root=no"], 3)
  assert len(said.strip().splitlines()) <= 2
