# SPDX-License-Identifier: Apache-2.0
"""Starts toy programs in several processes of this machine; gloo between them."""

import os
import pathlib
import socket
import subprocess
import sys

import jax


def start(program, processes, *arguments):
  """Starts a module's main in several processes that know of each other."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  common = {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(pathlib.Path(__file__).parent),
    "XLA_FLAGS": os.environ["XLA_FLAGS"],
    "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  if processes > 1:
    common["JAX_NUM_PROCESSES"] = str(processes)
    common["JAX_COORDINATOR_ADDRESS"] = f"localhost:{port}"
  return [
    subprocess.Popen(
      [sys.executable, program.__file__, *map(str, arguments)],
      env={**common, **({"JAX_PROCESS_ID": str(i)} if processes > 1 else {})},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(processes)
  ]


def finish(started):
  """Returns the exit codes and outputs."""
  try:
    outputs = [process.communicate(timeout=240)[0] for process in started]
  finally:
    for process in started:
      process.kill()
  return [process.returncode for process in started], outputs
