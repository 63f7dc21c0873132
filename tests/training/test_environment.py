# SPDX-License-Identifier: Apache-2.0
"""What surrounds a run: signals, processes, compute dtype, compile cache."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import types

import jax
import jax.numpy as jnp
import pytest

from lamd_jax.errors import ConfigError
from lamd_jax.training import compile_cache
from lamd_jax.training import distributed
from lamd_jax.training import precision
from lamd_jax.training import preemption


def _python(code, **environment):
  return subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)],
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


def test_sigterm_sets_the_flag():
  before = signal.getsignal(signal.SIGTERM)
  try:
    stop = preemption.Stop().install()
    assert not preemption.agreed(stop, 0)
    os.kill(os.getpid(), signal.SIGTERM)
    assert preemption.agreed(stop, 1)
  finally:
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
  "pace, polls", [(0, 8), (0.1, 8), (1.25, 8), (1.3, 7), (4, 2), (10, 1), (60, 1)]
)
def test_slow_steps_ask_more_often_whether_to_stop(pace, polls):
  """Every ten seconds at least, and every step at most."""
  assert preemption.polls_between(pace) == polls


def test_a_second_sigterm_leaves_at_once():
  done = _python(
    """
    import os, signal
    from lamd_jax.training import preemption
    preemption.Stop().install()
    for _ in range(2):
      os.kill(os.getpid(), signal.SIGTERM)
    os._exit(0)
    """,
    JAX_PLATFORMS="cpu",
  )
  assert done.returncode == 128 + signal.SIGTERM, done.stderr


def test_long_host_loops_are_left():
  stop = preemption.Stop()
  taken = []
  with pytest.raises(preemption.Preempted):
    for item in preemption.until_stopped(iter(range(10)), stop):
      taken.append(item)
      if item == 3:
        stop.request()
  assert taken == [0, 1, 2, 3]


@pytest.mark.parametrize(
  "environment, processes",
  [
    ({}, 1),
    ({"JAX_NUM_PROCESSES": "4"}, 4),
    ({"SLURM_NTASKS": "8", "SLURM_STEP_NODELIST": "n[1-2]"}, 8),
    ({"SLURM_NTASKS": "8"}, 1),  # a shell of an allocation, not a step
    ({"OMPI_COMM_WORLD_SIZE": "2"}, 2),
    ({"SKYPILOT_NUM_NODES": "1"}, 1),
    ({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, 4),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, 1),
    ({"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "2"}, 4),
    # Chips, but not of Compute Engine: port 9 of this machine answers nothing.
    ({"TPU_ML_PLATFORM": "JAX", "GCE_METADATA_IP": "localhost:9"}, 1),
  ],
)
def test_expected_processes(environment, processes):
  assert distributed.expected_processes(environment) == processes


def test_a_tpu_vm_learns_its_slice_from_the_metadata_server():
  asked = []

  class Metadata(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      asked.append((self.path, self.headers["Metadata-Flavor"]))
      self.send_response(200)
      self.end_headers()
      self.wfile.write(b"unknown:unknown:10.0.0.2,unknown:unknown:10.0.0.3")

    def log_message(self, *arguments):
      pass

  with http.server.HTTPServer(("localhost", 0), Metadata) as server:
    threading.Thread(target=server.handle_request, daemon=True).start()
    environment = {
      "TPU_ML_PLATFORM": "JAX", "GCE_METADATA_IP": f"localhost:{server.server_port}"
    }  # fmt: skip
    assert distributed.expected_processes(environment) == 2
  path = "/computeMetadata/v1/instance/attributes/worker-network-endpoints"
  assert asked == [(path, "Google")]
  # Without chips JAX says so, and nobody is asked.
  assert distributed.expected_processes({**environment, "TPU_SKIP_MDS_QUERY": "1"}) == 1


def test_alone_nothing_is_initialised():
  assert distributed.initialize(environment={}) is False


def test_an_incomplete_set_of_variables_is_named():
  with pytest.raises(ConfigError, match="JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID"):
    distributed.initialize(environment={"JAX_NUM_PROCESSES": "2"})


def test_a_missing_process_is_a_readable_failure():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  done = _python(
    """
    from lamd_jax.training import distributed
    distributed.initialize(timeout_seconds=2)
    """,
    JAX_PLATFORMS="cpu",
    JAX_NUM_PROCESSES="2",
    JAX_PROCESS_ID="0",
    JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
  )
  assert done.returncode == distributed.DistributedError.exit_code
  (line,) = done.stderr.splitlines()
  assert line.startswith("2 processes are expected but did not connect within 2 s")
  assert "JAX_NUM_PROCESSES" in line


def test_one_process_works_and_the_others_wait_however_it_ends():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  code = textwrap.dedent("""
    import sys
    from lamd_jax.training import distributed
    distributed.initialize()
    def work():
      print("worked", flush=True)
      raise SystemExit(75)
    sys.exit(distributed.by_first(work))
  """)
  common = {"JAX_PLATFORMS": "cpu", "JAX_NUM_PROCESSES": "2",
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}"}  # fmt: skip
  started = [
    subprocess.Popen(
      [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
      env={**os.environ, **common, "JAX_PROCESS_ID": str(i)},
    )
    for i in range(2)
  ]  # fmt: skip
  outputs = [process.communicate(timeout=240)[0] for process in started]
  assert [process.returncode for process in started] == [75, 0]
  assert ["worked" in output for output in outputs] == [True, False]


def test_compute_dtype():
  assert precision.compute_dtype("auto") == jnp.float32  # these tests run on a CPU
  assert precision.compute_dtype("bfloat16") == jnp.bfloat16
  with pytest.raises(ConfigError, match="'float16'.*auto, bfloat16, float32"):
    precision.compute_dtype("float16")


@pytest.mark.parametrize(
  ("platform", "capability", "name"),
  [
    ("tpu", "", "bfloat16"), ("gpu", "9.0", "bfloat16"), ("gpu", "8.0", "bfloat16"),
    ("gpu", "7.5", "float32"),  # a T4: no bfloat16 in its tensor cores
    ("gpu", "gfx90a", "bfloat16"), ("cpu", "", "float32"),
  ],
)  # fmt: skip
def test_auto_is_what_the_device_multiplies_in(monkeypatch, platform, capability, name):
  device = types.SimpleNamespace(platform=platform, compute_capability=capability)
  monkeypatch.setattr(jax, "local_devices", lambda: [device])
  assert precision.compute_dtype("auto") == name



@pytest.fixture
def cache_config():
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  yield
  jax.config.update("jax_compilation_cache_dir", before)


def test_compile_cache_is_on_by_default(cache_config, tmp_path, monkeypatch):
  monkeypatch.delenv(compile_cache.VARIABLE, raising=False)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  folder = compile_cache.enable()
  assert folder == str(tmp_path / "lamd_jax" / "xla")
  assert jax.config.jax_compilation_cache_dir == folder


def test_processes_share_a_compile_cache_only_if_it_is_named(
  cache_config, tmp_path, monkeypatch
):
  monkeypatch.delenv(compile_cache.VARIABLE, raising=False)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  assert compile_cache.enable() is None
  monkeypatch.setenv(compile_cache.VARIABLE, str(tmp_path / "shared"))
  assert compile_cache.enable() == str(tmp_path / "shared")


def test_compile_cache_follows_the_environment(cache_config, tmp_path, monkeypatch):
  monkeypatch.setenv(compile_cache.VARIABLE, "off")
  assert compile_cache.enable() is None
  monkeypatch.setenv(compile_cache.VARIABLE, str(tmp_path / "mine"))
  assert compile_cache.enable() == str(tmp_path / "mine")


def test_a_cache_in_a_bucket_leaves_no_folder_of_its_name(cache_config, monkeypatch):
  before = jax.config.jax_persistent_cache_enable_xla_caches
  monkeypatch.setenv(compile_cache.VARIABLE, "gs://bucket/cache")
  try:
    assert compile_cache.enable() == "gs://bucket/cache"
    assert jax.config.jax_persistent_cache_enable_xla_caches == "none"
  finally:
    jax.config.update("jax_persistent_cache_enable_xla_caches", before)


def test_a_cache_that_is_set_stays(cache_config, tmp_path):
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  assert compile_cache.enable() == str(tmp_path)
