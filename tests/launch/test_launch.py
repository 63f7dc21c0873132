# SPDX-License-Identifier: Apache-2.0
"""Launchers against programs that record their arguments and answer from a list."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import jsonschema
import pytest
import schemas
from stand_ins import LAUNCH
from stand_ins import Stubs
import yaml

RUN = ("python", "-m", "lamd_jax.main", "--config.name=a b", "--workdir=gs://b/sky")


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


_GKE = ("--name", "sky", "--image", "i", "--accelerator", "a", "--topology", "2x4")


@pytest.mark.parametrize(
  "script, flags, said",
  [("slurm.sh", ("--name",), "--name wants a value"),
   ("slurm.sh", ("--name", "--", "x"), "--name wants a value"),
   ("slurm.sh", ("--name", "s", "--nodes", "--dry-run", "--", "x"), "--nodes wants a"),
   ("slurm.sh", ("--name", "s", "--gpus", "0", "--", "x"), "--gpus 0: a whole number"),
   ("tpu_pod.sh", ("--name", "s", "--zone"), "--zone wants a value"),
   ("tpu_pod.sh", ("--name", "s", "--zone", "z", "--type", "t", "--restarts", "many",
                   "--", "x"), "--restarts many: a whole number from 0"),
   ("gpu_host.sh", ("--restarts", "-1", "--", "x"), "--restarts -1: a whole number"),
   ("skypilot.sh", ("--name", "s", "--bucket", "b", "--nodes", "two", "--", "x"),
    "--nodes two"),
   ("gke_jobset.sh", (*_GKE, "--hosts", "eight", "--chips", "4", "--", "x"),
    "--hosts eight"),
   ("gke_jobset.sh", ("--name", "Sky:1", *_GKE[2:], "--hosts", "8", "--chips", "4",
                      "--", "x"), "--name Sky:1: at most"),
   ],
)  # fmt: skip
def test_a_wrong_value_is_told_in_one_line_and_starts_nothing(
  stubs, script, flags, said
):
  for program in ("sbatch", "squeue", "gcloud", "kubectl", "sky"):
    stubs.add(program)
  wrong = stubs.launch(script, *flags)
  assert wrong.returncode == 2 and said in wrong.stderr
  assert len(wrong.stderr.splitlines()) == 1 and not wrong.stdout
  for program in ("sbatch", "squeue", "gcloud", "kubectl", "sky"):
    assert not stubs.calls(program)


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


# With os.write, since a print in a handler fails while the program is in another one.
_SAVES_WHEN_TOLD_TO_STOP = """
import os, signal, sys, time
def stop(*_):
  os.write(1, b"told\\n")
  time.sleep(.4)
  os.write(1, b"saved\\n")
  sys.exit(75)
signal.signal(signal.SIGTERM, stop)
os.write(1, b"ready\\n")
time.sleep(30)
"""


@pytest.mark.parametrize(
  "send, number, times",
  [(os.kill, signal.SIGTERM, 1), (os.killpg, signal.SIGINT, 1),
   (os.killpg, signal.SIGHUP, 2)],
  ids=["TERM", "Ctrl-C", "closed terminal"],
)  # fmt: skip
def test_gpu_host_told_to_stop_lets_the_run_save(stubs, send, number, times):
  command = (sys.executable, "-c", _SAVES_WHEN_TOLD_TO_STOP)
  with stubs.started("gpu_host.sh", "--", *command) as launcher:
    assert launcher.stdout.readline() == "ready\n"
    for _ in range(times):
      send(launcher.pid, number)
      time.sleep(0.1)
    assert launcher.wait(20) == 75
    assert launcher.stdout.read() == "told\nsaved\n"  # once, and no second "ready"


def test_gpu_host_told_to_stop_as_the_run_leaves_with_75_does_not_start_again(
  stubs, tmp_path
):
  command, starts = _counting(tmp_path, (75, 0))
  tell = "import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
  # To the launcher, which leads the group; at once after that the run is gone.
  code = command[2].replace("sys.exit(", "os.kill(os.getpgrp(), 2); os._exit(")
  command = (*command[:2], tell + code)
  with stubs.started("gpu_host.sh", "--", *command) as launcher:
    assert launcher.wait(20) == 75
  assert starts() == 1


# TPU pod.

POD = ("--name", "sky", "--zone", "z", "--type", "v5litepod-32", "--spot")
# A connection that ends while the slice is there: of a run that failed, or not.
LOST = (("describe", 0, "ACTIVE\n"), ("ssh", 255, ""), ("describe", 0, "ACTIVE\n"))
NONE = "ERROR: (gcloud.alpha...describe) NOT_FOUND: Resource ... was not found.\n"


def _verbs(calls):
  """create, describe, delete, ssh: what each call of gcloud does."""
  return [next(x for x in c if x in ("create", "describe", "delete", "ssh")) for c in calls]


def _told(call):
  """What an ssh tells the workers, without the name of the start."""
  return re.sub(r" run \S+ ", " run ", call[-1])


def test_pod_is_asked_for_waited_for_and_goes_on_after_75(stubs):
  stubs.add(
    "gcloud",
    ("describe", 1, NONE),
    ("describe", 0, "WAITING_FOR_RESOURCES\n"),
    ("describe", 0, "ACTIVE\n"),
    ("pip", 0, ""),
    ("ssh", 75, ""),
    ("describe", 0, "ACTIVE\n"),
    ("ssh", 0, ""),
  )
  done = stubs.launch("tpu_pod.sh", *POD, "--setup", "pip install .", "--", *RUN)
  assert done.returncode == 0, done.stderr
  calls = stubs.calls("gcloud")
  assert _verbs(calls) == [
    "describe", "create", "describe", "describe", "ssh", "ssh", "describe", "ssh",
    "ssh", "delete",
  ]  # fmt: skip
  create = calls[1]
  for flag in ("--spot", "--zone=z", "--node-id=sky", "--accelerator-type=v5litepod-32"):
    assert flag in create
  ssh = [c for c in calls if "ssh" in c]
  assert all("--worker=all" in c for c in ssh)
  setup, run, again, resumed = (_told(c) for c in ssh)
  assert "pip" in setup and again == setup
  assert run == resumed and r"--config.name=a\ b" in run
  assert ssh[1] != ssh[3]  # another start


def test_pod_that_is_taken_away_is_asked_for_anew(stubs):
  stubs.add(
    "gcloud",
    ("describe", 0, "ACTIVE\n"),  # exists: not created
    ("ssh", 255, ""),  # the workers are gone
    ("describe", 0, "SUSPENDED\n"),  # why ssh failed
    ("describe", 0, "SUSPENDED\n"),  # not to be waited for
    ("describe", 1, NONE),
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
    *LOST, ("' ended", 0, ""), ("ssh", 2, ""),
  )  # fmt: skip
  assert stubs.launch("tpu_pod.sh", *POD, "--", *RUN).returncode == 2
  # Asked whether it has ended, and for its own code.
  assert _verbs(stubs.calls("gcloud"))[1:] == [
    "ssh", "describe", "ssh", "ssh", "delete",
  ]  # fmt: skip


def test_pod_whose_connection_is_lost_is_followed_again(stubs):
  stubs.add(
    "gcloud",
    *LOST,
    ("' ended", 255, ""),
  )
  done = stubs.launch("tpu_pod.sh", *POD, "--keep", "--", *RUN)
  assert done.returncode == 0 and "no connection (exit 255)" in done.stderr
  first, asked, second = [c for c in stubs.calls("gcloud") if "ssh" in c]
  assert first == second and first != asked  # the same start


def test_pod_that_saved_while_the_connection_was_lost_is_started_again(stubs):
  stubs.add(
    "gcloud",
    *LOST,
    ("' ended", 0, ""),
    ("ssh", 75, ""),
    ("describe", 0, "ACTIVE\n"),
  )
  done = stubs.launch("tpu_pod.sh", *POD, "--keep", "--", *RUN)
  assert done.returncode == 0 and "preempted (exit 75)" in done.stderr


def test_pod_that_cannot_be_deleted_says_so_and_keeps_the_code(stubs):
  stubs.add("gcloud", ("describe", 0, "ACTIVE\n"), *[("delete", 1, "UNAVAILABLE\n")] * 2)
  done = stubs.launch("tpu_pod.sh", *POD, "--", *RUN)
  assert done.returncode == 0 and "could not be deleted, and bills" in done.stderr


def test_pod_whose_state_cannot_be_asked_is_asked_again(stubs):
  stubs.add(
    "gcloud",
    ("describe", 1, "UNAVAILABLE\n"),  # not "there is none": not created
    ("describe", 0, "ACTIVE\n"),
    ("ssh", 2, ""),
    ("describe", 1, "UNAVAILABLE\n"),  # not "taken away": not started again
    ("describe", 0, "ACTIVE\n"),
    ("' ended", 0, ""),
    ("ssh", 2, ""),
  )
  done = stubs.launch("tpu_pod.sh", *POD, "--", *RUN)
  assert done.returncode == 2 and done.stderr.count("again: UNAVAILABLE") == 2
  assert _verbs(stubs.calls("gcloud")) == [
    "describe", "describe", "ssh", "describe", "describe", "ssh", "ssh", "delete",
  ]  # fmt: skip


def test_pod_that_an_earlier_launcher_asked_for_is_set_up_once(stubs, tmp_path):
  setup = "set -e\necho \"it's $((1 + 1))\" >> log\ntest -e network\necho done >> log\n"
  worker = tmp_path / "worker"
  worker.mkdir()

  def set_up(text):
    """What ssh is given before RUN, run on a worker: its exit code."""
    stubs.launch("tpu_pod.sh", *POD, "--setup", text, "--keep", "--", *RUN)
    before, run = [c for c in stubs.calls("gcloud") if "ssh" in c][-2:]
    assert "lamd_jax.main" in run[-1]
    shell = ["bash", "-c", before[-1].removeprefix("--command=")]
    return subprocess.run(shell, cwd=worker, check=False).returncode

  stubs.add("gcloud", *[("describe", 0, "ACTIVE\n")] * 4)
  log = worker / "log"
  assert set_up(setup) == 1 and log.read_text() == "it's 2\n"  # failed: not done
  (worker / "network").touch()
  assert set_up(setup) == 0 and log.read_text() == "it's 2\nit's 2\ndone\n"
  assert set_up(setup) == 0 and log.read_text().count("done") == 1
  assert set_up("echo more >> log") == 0 and log.read_text().endswith("done\nmore\n")
  assert "create" not in _verbs(stubs.calls("gcloud"))


def _on_worker(what, start, *command):
  return ["bash", "-c", (LAUNCH / "on_worker.sh").read_text(), what, start, *command]


def test_a_worker_goes_on_without_its_connection_and_is_followed_by_the_next(tmp_path):
  command = ("bash", "-c", "echo start; until test -e go; do sleep 0.1; done; exit 7")
  options = dict(cwd=tmp_path, stdout=subprocess.PIPE, text=True)
  told = lambda what, start="1": _on_worker(what, start, *command)
  ended = lambda start="1": (
    not subprocess.run(told("ended", start), cwd=tmp_path, check=False).returncode
  )
  with subprocess.Popen(told("run"), start_new_session=True, **options) as first:
    assert first.stdout.readline() == "start\n" and not ended()
    os.killpg(first.pid, signal.SIGKILL)  # all that the connection holds
  with subprocess.Popen(told("run"), **options) as second:
    assert second.stdout.readline() == "start\n"  # of the first: it was not begun anew
    (tmp_path / "go").touch()
    assert second.wait(30) == 7
    assert second.stdout.read() == "" and ended() and not ended("2")
  # The same start gives its code again, another one is begun anew.
  asked = subprocess.run(told("run"), **options, check=False)
  assert asked.returncode == 7 and asked.stdout == ""
  third = subprocess.run(told("run", "2"), **options, check=False)
  assert third.returncode == 7 and third.stdout == "start\n"
  assert ended("2") and not ended()


def test_a_worker_gives_the_code_of_the_shortest_command(tmp_path):
  for i in range(5):  # on a new worker, where nothing lies yet
    (tmp_path / f"{i}").mkdir()
    told = _on_worker("run", "1", "bash", "-c", "exit 75")
    assert subprocess.run(told, cwd=tmp_path / f"{i}", check=False).returncode == 75


def test_a_worker_whose_run_is_killed_does_not_give_an_earlier_code(tmp_path):
  # Its parent is the shell that would note the code.
  command = ("bash", "-c", "test ! -e kill || kill -9 $PPID")
  codes = []
  for start in ("1", "2"):
    told = _on_worker("run", start, *command)
    codes.append(subprocess.run(told, cwd=tmp_path, check=False).returncode)
    (tmp_path / "kill").touch()
  assert codes == [0, 1]


def test_pod_that_is_left_says_how_to_delete_it(stubs):
  gcloud = stubs.folder / "gcloud"
  gcloud.write_text('#!/bin/sh\n[ "$4" = queued-resources ] && echo ACTIVE && exit\n'
                    "echo ready\nexec sleep 30\n")  # fmt: skip
  gcloud.chmod(0o755)
  with stubs.started("tpu_pod.sh", *POD, "--", *RUN) as launcher:
    assert launcher.stdout.readline() == "ready\n"
    os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.wait(20) == 130
    assert "queued-resources delete sky --zone=z" in launcher.stderr.read()


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


def test_slurm_submits_nothing_while_the_queue_is_unknown(stubs):
  stubs.add("squeue", ("", 1, ""))
  stubs.add("sbatch")
  done = stubs.launch("slurm.sh", "--name", "sky", "--", *RUN)
  assert done.returncode == 2 and "is sky there?" in done.stderr
  assert not stubs.calls("sbatch")


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


# As sky 0.14.1 prints it: two blanks at least between columns.
QUEUE = """\
Fetching managed job statuses...
Managed jobs (showing in-progress jobs only)
In progress tasks: 4 RUNNING
ID  TASK  NAME      REQUESTED   SUBMITTED  TOT. DURATION  STATUS
12  -     sky-long  1x[H100:8]  1 hr ago   1h             RUNNING
9   -     my-sky    1x[sky]     1 hr ago   1h             RUNNING
7   -     sky two   1x[H100:8]  1 hr ago   1h             RUNNING
4         pipe      -           1 hr ago   1h             RUNNING (task: 0)
 ↳  0     sky       1x[H100:8]  1 hr ago   1h             RUNNING
"""


def test_skypilot_launches_once_and_its_task_fits_the_schema(stubs):
  mine = "3   -     sky       1x[H100:8]  1 hr ago   1h             PENDING\n"
  stubs.add("sky", ("jobs queue", 0, QUEUE), ("jobs launch", 0, ""),
            ("jobs queue", 0, QUEUE + mine))  # fmt: skip
  flags = ("--name", "sky", "--bucket", "b", "--nodes", "2")
  for _ in range(2):
    assert stubs.launch("skypilot.sh", *flags, "--", *RUN).returncode == 0
  launches = [call for call in stubs.calls("sky") if call[1] == "launch"]
  assert len(launches) == 1
  assert launches[0][-1] == "launch/skypilot.yaml" and "2" in launches[0]
  task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
  jsonschema.validate(task, schemas.SKYPILOT)


def test_skypilot_finds_the_name_where_the_queue_has_more_columns(stubs):
  queue = "ID  TASK  WORKSPACE  NAME  REQUESTED\n3   -     default    sky   1x[H100:8]\n"
  stubs.add("sky", ("jobs queue", 0, queue))
  flags = ("--name", "sky", "--bucket", "b")
  assert "left alone" in stubs.launch("skypilot.sh", *flags, "--", *RUN).stderr
  assert [call[1] for call in stubs.calls("sky")] == ["queue"]


@pytest.mark.parametrize("code, said", [(1, "no server"), (0, "Failed to query")])
def test_skypilot_launches_nothing_while_the_queue_is_unknown(stubs, code, said):
  stubs.add("sky", ("jobs queue", code, said))
  done = stubs.launch("skypilot.sh", "--name", "s", "--bucket", "b", "--", *RUN)
  assert done.returncode and said in done.stderr
  assert [call[1] for call in stubs.calls("sky")] == ["queue"]


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
