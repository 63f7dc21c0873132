# SPDX-License-Identifier: Apache-2.0
"""Connects processes, only where several are expected, and lets them work together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import hashlib
import os
import sys
import threading
import time
from typing import TypeVar
import urllib.request

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np

from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError
from lamd_jax.training import failures
from lamd_jax.training import preemption

TIMEOUT_SECONDS = 300  # nodes of a job may start minutes apart

# Variables that hold the number of processes; the first is set by hand.
_COUNTS = (
  "JAX_NUM_PROCESSES", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "SKYPILOT_NUM_NODES",
)  # fmt: skip
# Variables that list the hosts of a TPU slice, separated by commas.
_HOST_LISTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
# On a VM of Compute Engine nothing lists them but its metadata server.
_METADATA = (
  "http://{}/computeMetadata/v1/instance/attributes/worker-network-endpoints"
)
_METADATA_SECONDS = 10
# Until a network's disk shows what other hosts have written.
_SETTLED_SECONDS = 90.0
T = TypeVar("T")


class DistributedError(ConfigError):
  """The processes of this job did not find each other."""


def expected_processes(environment: Mapping[str, str] = os.environ) -> int:
  """Returns how many processes the launcher started, as far as it says; at least 1."""
  for name in _COUNTS:
    value = environment.get(name, "")
    # SLURM_NTASKS is also set in an interactive allocation, outside of srun, where
    # this process is alone: a step id marks the ones srun started.
    if name == "SLURM_NTASKS" and "SLURM_STEP_NODELIST" not in environment:
      continue
    if value.isdigit():
      return max(1, int(value))
  slices = int(environment.get("MEGASCALE_NUM_SLICES", "1"))
  for name in _HOST_LISTS:
    if environment.get(name):
      return slices * len(environment[name].split(","))
  return slices * _hosts_of_this_slice(environment)


def _hosts_of_this_slice(environment: Mapping[str, str]) -> int:
  """Asks the metadata server, where JAX found TPU chips and no variable says it."""
  if "TPU_ML_PLATFORM" not in environment or "TPU_SKIP_MDS_QUERY" in environment:
    return 1  # JAX sets the first where there are chips, the second where there are none
  server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
  request = urllib.request.Request(
    _METADATA.format(server), headers={"Metadata-Flavor": "Google"}
  )
  try:
    with urllib.request.urlopen(request, timeout=_METADATA_SECONDS) as answer:
      return len(answer.read().decode().split(","))
  except OSError:  # not on Compute Engine
    return 1


def _arguments(environment: Mapping[str, str], processes: int) -> dict[str, object]:
  """Arguments of jax.distributed.initialize; empty where JAX detects the cluster."""
  if "JAX_NUM_PROCESSES" in environment:
    missing = [
      name
      for name in ("JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_ID")
      if name not in environment
    ]
    if missing:
      raise DistributedError(
        f"JAX_NUM_PROCESSES={processes} is set but not {', '.join(missing)}: set all"
        " three, or none to run alone"
      )
    return dict(
      coordinator_address=environment["JAX_COORDINATOR_ADDRESS"],
      num_processes=processes,
      process_id=int(environment["JAX_PROCESS_ID"]),
    )
  if "SKYPILOT_NUM_NODES" in environment:
    first = environment.get("SKYPILOT_NODE_IPS", "").split("\n")[0].strip()
    return dict(
      coordinator_address=f"{first}:8476",
      num_processes=processes,
      process_id=int(environment.get("SKYPILOT_NODE_RANK", "0")),
    )
  return {}


def initialize(
  timeout_seconds: int = TIMEOUT_SECONDS,
  environment: Mapping[str, str] = os.environ,
) -> bool:
  """Connects the processes if there are several; call it before any other JAX call.

  If the others do not come in time, the process prints one line and leaves with the
  exit code of DistributedError: JAX itself would abort with a stack trace, in C++,
  where nothing can be caught.

  Args:
    timeout_seconds: how long to wait for the others.
    environment: the environment variables to read.

  Returns:
    Whether several processes are connected.

  Raises:
    DistributedError: the environment does not say how to connect.
  """
  processes = expected_processes(environment)
  if processes == 1 or jax.distributed.is_initialized():
    return processes > 1
  arguments = _arguments(environment, processes)
  found = [name for name in (*_COUNTS, *_HOST_LISTS) if name in environment]
  message = (
    f"{processes} processes are expected but did not connect within"
    f" {timeout_seconds} s: start all of them, check that they reach the coordinator"
    f" {arguments.get('coordinator_address', '')}"
    + (f", or unset {', '.join(found)} to run alone" if found else "")
  )
  watch = threading.Timer(timeout_seconds, _give_up, (message,))
  watch.daemon = True
  watch.start()
  try:
    # Longer than ours, so that our line comes first.
    jax.distributed.initialize(
      initialization_timeout=timeout_seconds + 60, **arguments
    )
  except (RuntimeError, ValueError) as error:
    raise DistributedError(f"{message} ({str(error).splitlines()[0]})") from error
  finally:
    watch.cancel()
  failures.watch()
  logging.info("process %d of %d", jax.process_index(), jax.process_count())
  return True


def connected() -> bool:
  return jax.distributed.is_initialized()


def by_first(work: Callable[[], int]) -> int:
  """Returns what `work` gives on the first process; the others wait, and return 0.

  For what would write the same files from each of them. One that left early would take
  the first with it.
  """
  if jax.process_count() == 1:
    return work()
  # A meeting before as well: the devices' first one has to be within ten minutes.
  multihost_utils.sync_global_devices("before the first process's work")
  try:
    return work() if jax.process_index() == 0 else 0
  finally:
    multihost_utils.sync_global_devices("after the first process's work")


def together(work: Callable[[], T], first: bool = False) -> T | None:
  """Does `work`, or `first` process alone does; if it fails on one, all raise.

  One that left alone would leave the others waiting for it. Returns what work gives,
  None where it was not done.
  """
  failure: Exception | None = None
  found = None
  try:
    if jax.process_index() == 0 or not first:
      found = work()
  except Exception as error:  # raised below, once the others know
    failure = error
  stopped = isinstance(failure, preemption.Preempted)
  own = 0 if failure is None else 1 if stopped else 2
  every = np.asarray([own])
  if jax.process_count() > 1:
    every = multihost_utils.process_allgather(every).ravel()
  if failure is not None and own == every.max():
    raise failure
  if every.max() == 1:
    raise preemption.Preempted
  if every.max() > 1:
    raise ConfigError(f"process {every.argmax()} failed, and says why")
  return found


def alone(tool: str) -> None:
  """Raises ConfigError where a launcher started `tool` more than once.

  Each would take itself for the only one, and write where the others write.
  """
  if (processes := expected_processes()) > 1:
    raise ConfigError(
      f"{tool}: is for one process, and {processes} were started; start it once, on the"
      " devices of one host"
    )


def check_same(what: str, text: str) -> None:
  """Raises DataError where processes differ in `what`, of which `text` is a digest."""
  own = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
  every = multihost_utils.process_allgather(own).reshape(-1, len(own))
  if others := [i for i, digest in enumerate(every) if (digest != every[0]).any()]:
    raise DataError(
      f"{what}: process {others[0]} has others than process 0; every host has to see the"
      " same"
    )


def of_first(number: int) -> int:
  """The first process's `number`, on all of them."""
  return int(multihost_utils.broadcast_one_to_all(np.asarray(number)))


def settled(seen: Callable[[], float]) -> float:
  """Asks `seen`, a share of all, until it is 1, as long as a network's disk may take."""
  until = time.monotonic() + _SETTLED_SECONDS
  while (share := seen()) < 1 and time.monotonic() < until:
    time.sleep(0.1)
  return share


def _give_up(message: str) -> None:
  sys.stderr.write(f"{message}\n")
  sys.stderr.flush()
  os._exit(DistributedError.exit_code)
