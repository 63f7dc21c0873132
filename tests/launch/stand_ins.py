# SPDX-License-Identifier: Apache-2.0
"""Programs that stand in for gcloud, kubectl, sky, ..., and what starts the launchers.

A stub NAME on the PATH appends its arguments to NAME.log and takes its answers from the
folder NAME.answers: for each call the first file whose pattern (its first line) is in the
arguments is used up; its second line is the exit code and the rest is printed, to stderr
if the code is not 0.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"

_STUB = f"""#!{sys.executable}
import json, pathlib, sys
me = pathlib.Path(sys.argv[0])
with open(f"{{me}}.log", "a") as log:
  log.write(json.dumps(sys.argv[1:]) + "\\n")
if me.name == "kubectl" and "-f" in sys.argv:
  sys.stdin.read()
for answer in sorted(pathlib.Path(f"{{me}}.answers").iterdir()):
  pattern, code, text = answer.read_text().split("\\n", 2)
  if pattern in " ".join(sys.argv[1:]):
    answer.unlink()
    print(text, end="", file=sys.stderr if int(code) else sys.stdout)
    sys.exit(int(code))
"""

# Runs a script as a terminal would: signals that pytest was started to ignore (by nohup,
# say) cannot be trapped by a shell that inherits that.
_AS_IN_A_TERMINAL = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGHUP):
  signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Stubs:
  """Programs in a folder of their own, in front of the PATH."""

  def __init__(self, folder):
    self.folder = folder

  def add(self, name, *answers):
    """`answers`: (part of the arguments, exit code, output), each used once."""
    path = self.folder / name
    path.write_text(_STUB)
    path.chmod(0o755)
    (self.folder / f"{name}.answers").mkdir()
    for i, (pattern, code, text) in enumerate(answers):
      file = self.folder / f"{name}.answers" / f"{i:02}"
      file.write_text(f"{pattern}\n{code}\n{text}")

  def calls(self, name):
    log = self.folder / f"{name}.log"
    return [json.loads(x) for x in log.read_text().splitlines()] if log.exists() else []

  def environment(self, **more):
    path = f"{self.folder}:{os.environ['PATH']}"
    return {"PATH": path, "LAMD_POLL_SECONDS": "0", **more}

  def launch(self, script, *args, **environment):
    return subprocess.run(
      [str(LAUNCH / script), *args],
      env=self.environment(**environment),
      capture_output=True,
      text=True,
      timeout=60,
      check=False,
    )

  @contextlib.contextmanager
  def started(self, script, *args):
    """A launcher in a process group of its own; whatever it leaves is killed."""
    launcher = subprocess.Popen(
      [sys.executable, "-c", _AS_IN_A_TERMINAL, str(LAUNCH / script), *args],
      env=self.environment(),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )
    try:
      yield launcher
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(launcher.pid, signal.SIGKILL)
      launcher.communicate()
