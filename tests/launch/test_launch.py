# SPDX-License-Identifier: Apache-2.0
"""Launchers against programs that record their arguments and answer from a list.

A stub NAME on the PATH appends its arguments to NAME.log and takes its answers from the
folder NAME.answers: for each call the first file whose pattern (its first line) is in the
arguments is used up; the rest of it is printed and its second line is the exit code.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jsonschema
import pytest
import schemas
import yaml

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"
RUN = ("python", "-m", "lamd_jax.main", "--config.name=a b", "--workdir=gs://b/sky")

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
    print(text, end="")
    sys.exit(int(code))
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

  def launch(self, script, *args, **environment):
    return subprocess.run(
      [str(LAUNCH / script), *args],
      env={
        "PATH": f"{self.folder}:{os.environ['PATH']}",
        "LAMD_POLL_SECONDS": "0",
        **environment,
      },
      capture_output=True,
      text=True,
      timeout=60,
      check=False,
    )


@pytest.fixture
def stubs(tmp_path):
  return Stubs(tmp_path)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_scripts_are_shellcheck_clean():
  scripts = sorted(str(p) for p in LAUNCH.glob("*.sh"))
  done = subprocess.run(
    ["shellcheck", "-x", *scripts], cwd=LAUNCH.parent, capture_output=True, check=False
  )
  assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize(
  "script, flag",
  [("gpu_host.sh", None), ("tpu_pod.sh", "--name"), ("slurm.sh", "--name"),
   ("gke_jobset.sh", "--name"), ("skypilot.sh", "--name")],
)  # fmt: skip
def test_no_arguments_and_wrong_ones_say_what_to_give(stubs, script, flag):
  assert "COMMAND..." in stubs.launch(script).stdout
  wrong = stubs.launch(script, "--nmae", "x")
  assert wrong.returncode == 2 and "unknown flag --nmae" in wrong.stderr
  if flag:
    missing = stubs.launch(script, "--", *RUN)
    assert missing.returncode == 2 and f"{flag} is missing" in missing.stderr


# Multi-GPU host.


def _counting(tmp_path, codes):
  """A command that exits with the next of `codes` at each start."""
  starts = tmp_path / "starts"
  code = f"""
import pathlib, sys
path = pathlib.Path({str(starts)!r})
n = len(path.read_text()) if path.exists() else 0
path.write_text("x" * (n + 1))
sys.exit({list(codes)}[n])
"""
  return (sys.executable, "-c", code), lambda: len(starts.read_text())


@pytest.mark.parametrize("codes, final", [((75, 75, 0), 0), ((75, 3), 3), ((1,), 1)])
def test_gpu_host_starts_again_on_75_alone(stubs, tmp_path, codes, final):
  command, starts = _counting(tmp_path, codes)
  done = stubs.launch("gpu_host.sh", "--", *command)
  assert done.returncode == final and starts() == len(codes)


def test_gpu_host_gives_up_after_so_many_restarts(stubs, tmp_path):
  command, starts = _counting(tmp_path, (75, 75, 75, 75))
  assert stubs.launch("gpu_host.sh", "--restarts", "2", "--", *command).returncode == 75
  assert starts() == 3


def test_gpu_host_passes_sigterm_on_and_does_not_start_again():
  code = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(.2), sys.exit(75)))\n"
    "print('ready', flush=True)\n"
    "time.sleep(30)\n"
  )
  launcher = subprocess.Popen(
    [str(LAUNCH / "gpu_host.sh"), "--", sys.executable, "-c", code],
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    assert launcher.stdout.readline() == "ready\n"
    launcher.terminate()
    assert launcher.wait(20) == 75
    assert launcher.stdout.read() == ""
  finally:
    launcher.kill()


# TPU pod.

POD = ("--name", "sky", "--zone", "z", "--type", "v5litepod-32", "--spot")


def _verbs(calls):
  """create, describe, delete, ssh: what each call of gcloud does."""
  return [next(x for x in c if x in ("create", "describe", "delete", "ssh")) for c in calls]


def test_pod_is_asked_for_waited_for_and_goes_on_after_75(stubs):
  stubs.add(
    "gcloud",
    ("describe", 1, ""),  # there is none
    ("describe", 0, "WAITING_FOR_RESOURCES\n"),
    ("describe", 0, "ACTIVE\n"),
    ("--command=pip", 0, ""),
    ("ssh", 75, ""),
    ("describe", 0, "ACTIVE\n"),
    ("ssh", 0, ""),
  )
  done = stubs.launch("tpu_pod.sh", *POD, "--setup", "pip install .", "--", *RUN)
  assert done.returncode == 0, done.stderr
  calls = stubs.calls("gcloud")
  assert _verbs(calls) == [
    "describe", "create", "describe", "describe", "ssh", "ssh", "describe", "ssh",
    "delete",
  ]  # fmt: skip
  create = calls[1]
  for flag in ("--spot", "--zone=z", "--node-id=sky", "--accelerator-type=v5litepod-32"):
    assert flag in create
  runs = [c for c in calls if "ssh" in c][1:]
  assert runs[0] == runs[1] and "--worker=all" in runs[0]  # resumed by the same command
  assert r"--config.name=a\ b" in runs[0][-1]


def test_pod_that_is_taken_away_is_asked_for_anew(stubs):
  stubs.add(
    "gcloud",
    ("describe", 0, "ACTIVE\n"),  # exists: not created
    ("ssh", 255, ""),  # the workers are gone
    ("describe", 0, "SUSPENDED\n"),  # why ssh failed
    ("describe", 0, "SUSPENDED\n"),  # not to be waited for
    ("describe", 1, ""),
    ("describe", 0, "ACTIVE\n"),
  )
  done = stubs.launch("tpu_pod.sh", *POD, "--keep", "--", *RUN)
  assert done.returncode == 0, done.stderr
  assert _verbs(stubs.calls("gcloud")) == [
    "describe", "ssh", "describe", "describe", "delete", "describe", "create",
    "describe", "ssh",
  ]  # fmt: skip


def test_pod_whose_run_fails_is_not_started_again(stubs):
  stubs.add(
    "gcloud",
    ("describe", 0, "ACTIVE\n"), ("ssh", 2, ""), ("describe", 0, "ACTIVE\n"),
  )  # fmt: skip
  assert stubs.launch("tpu_pod.sh", *POD, "--", *RUN).returncode == 2
  assert _verbs(stubs.calls("gcloud")).count("ssh") == 1


# SLURM.


def test_slurm_submits_itself_once(stubs):
  stubs.add("squeue", ("", 0, ""), ("", 0, "123 gpu sky\n"))
  stubs.add("sbatch")
  flags = ("--name", "sky", "--nodes", "2", "--gpus", "8", "--sbatch=--partition=gpu")
  for _ in range(2):
    assert stubs.launch("slurm.sh", *flags, "--", *RUN).returncode == 0
  (call,) = stubs.calls("sbatch")
  for flag in ("--nodes=2", "--ntasks-per-node=8", "--requeue", "--signal=TERM@120",
               "--partition=gpu"):  # fmt: skip
    assert flag in call
  assert call[-len(RUN) :] == list(RUN)


def test_slurm_job_is_requeued_on_75_and_resumes(stubs):
  stubs.add("srun", ("", 75, ""), ("", 0, ""))
  stubs.add("scontrol")
  job = dict(SLURM_JOB_ID="7", LAMD_IN_JOB="1", LAMD_LAUNCH=str(LAUNCH))
  assert stubs.launch("slurm.sh", *RUN, **job).returncode == 75
  assert stubs.calls("scontrol") == [["requeue", "7"]]
  assert stubs.launch("slurm.sh", *RUN, **job).returncode == 0  # SLURM's second start
  first, second = stubs.calls("srun")
  assert first == second == ["--kill-on-bad-exit=0", *RUN]
  assert len(stubs.calls("scontrol")) == 1


# GKE.

JOBSET = ("--name", "sky", "--image", "repo/lamd:1", "--accelerator",
          "tpu-v5-lite-podslice", "--topology", "4x8", "--hosts", "8", "--chips",
          "4")  # fmt: skip


def test_jobset_fits_its_schema(stubs):
  done = stubs.launch("gke_jobset.sh", *JOBSET, "--dry-run", "--", *RUN)
  made = yaml.safe_load(done.stdout)
  jsonschema.validate(made, schemas.JOBSET)
  job = made["spec"]["replicatedJobs"][0]["template"]["spec"]
  container = job["template"]["spec"]["containers"][0]
  assert container["command"] == list(RUN)
  assert job["parallelism"] == job["completions"] == 8
  assert container["resources"]["limits"] == {"google.com/tpu": 4}
  with pytest.raises(jsonschema.ValidationError, match="'Restart'"):
    made["spec"]["failurePolicy"]["rules"][0]["action"] = "Restart"
    jsonschema.validate(made, schemas.JOBSET)


def test_jobset_is_applied_anew_after_75(stubs):
  stubs.add(
    "kubectl",
    ("get jobset", 0, ""),  # it runs
    ("get jobset", 1, ""),  # the question itself fails
    ("get jobset", 0, "Failed"),
    ("get pods", 0, "0 75 143"),
    ("get jobset", 0, "Completed"),
  )
  done = stubs.launch("gke_jobset.sh", *JOBSET, "--follow", "--", *RUN)
  assert done.returncode == 0, done.stderr
  verbs = [call[0] for call in stubs.calls("kubectl")]
  assert verbs == ["apply", "get", "get", "get", "get", "delete", "apply", "get"]


def test_jobset_that_fails_is_not_applied_anew(stubs):
  stubs.add("kubectl", ("get jobset", 0, "Failed"), ("get pods", 0, "2 2"))
  done = stubs.launch("gke_jobset.sh", *JOBSET, "--follow", "--", *RUN)
  assert done.returncode == 2 and "exit codes of its pods: 2 2" in done.stderr


# SkyPilot.


def test_skypilot_launches_once_and_its_task_fits_the_schema(stubs):
  stubs.add("sky", ("jobs queue", 0, "ID\n"), ("jobs launch", 0, ""),
            ("jobs queue", 0, "ID\n3 sky RUNNING\n"))  # fmt: skip
  flags = ("--name", "sky", "--bucket", "b", "--nodes", "2")
  for _ in range(2):
    assert stubs.launch("skypilot.sh", *flags, "--", *RUN).returncode == 0
  launches = [call for call in stubs.calls("sky") if call[1] == "launch"]
  assert len(launches) == 1
  assert launches[0][-1] == "launch/skypilot.yaml" and "2" in launches[0]
  task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
  jsonschema.validate(task, schemas.SKYPILOT)


@pytest.mark.parametrize(
  "script, flags, program",
  [
    ("tpu_pod.sh", POD, "gcloud"),
    ("slurm.sh", ("--name", "sky"), "sbatch"),
    ("gke_jobset.sh", JOBSET, "kubectl"),
    ("skypilot.sh", ("--name", "sky", "--bucket", "b"), "sky"),
    ("gpu_host.sh", (), None),
  ],
)
def test_dry_run_prints_and_changes_nothing(stubs, script, flags, program):
  for name in ("gcloud", "sbatch", "squeue", "kubectl", "sky"):
    stubs.add(name)
  done = stubs.launch(script, *flags, "--dry-run", "--", *RUN)
  assert done.returncode == 0, done.stderr
  assert "lamd_jax.main" in done.stdout
  if program:
    assert not stubs.calls(program)
