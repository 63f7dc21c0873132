# SPDX-License-Identifier: Apache-2.0
"""Arithmetic a second, and traces of steps."""

import types

import jax
import jax.numpy as jnp
import pytest

from lamd_jax.training import profile
from lamd_jax.training import throughput


def _devices(kind, count):
  return [types.SimpleNamespace(device_kind=kind)] * count


def test_steps_are_counted_by_variant_until_taken():
  product = jax.jit(lambda a, b: a @ b)
  small, large = jnp.ones((2, 3)), jnp.ones((20, 3))
  counter = throughput.Throughput(_devices("NVIDIA H200", 2))
  for _ in range(3):
    counter.count("small", product, small, small.T)
  counter.count("large", product, large, small.T)
  # A product of [m,k] and [k,n] has 2mkn operations.
  done = 3 * 2 * 2 * 3 * 2 + 2 * 20 * 3 * 2
  found = counter.take(0.5)
  assert found["tflops_per_second"] == pytest.approx(done / 0.5 / 1e12)
  assert found["utilisation"] == pytest.approx(done / 0.5 / (2 * 989e12))
  assert counter.take(1.0)["tflops_per_second"] == 0


def test_counting_does_not_trace_again():
  traces = []
  step = jax.jit(lambda x: traces.append(1) or x @ x)
  x = jnp.ones((4, 4))
  counter = throughput.Throughput(jax.devices()[:1])
  for _ in range(2):
    counter.count("video", step, x)
    x = step(x)
  assert len(traces) == 1
  assert "utilisation" not in counter.take(1.0)  # a CPU's peak is not known


@pytest.mark.parametrize(
  ("kind", "teraflops"),
  [
    ("TPU v5 lite", 197), ("TPU v5e", 197), ("TPU v5p", 459), ("TPU v6e", 918),
    ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("cpu", 0),
  ],
)  # fmt: skip
def test_peaks_are_those_of_the_data_sheets(kind, teraflops):
  assert throughput.peak(kind) == teraflops * 1e12


def test_a_trace_covers_the_steps_asked_for(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(jax.profiler, "start_trace", calls.append)
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
  traced = profile.Profile(tmp_path, 100, 2)
  for step in range(100, 120):
    before = len(calls)
    traced.before(step, jnp.zeros(()))
    if len(calls) > before:
      calls.append(step)
  traced.stop(jnp.zeros(()))
  assert calls == [str(tmp_path / "profile"), 110, "stop", 112]


def test_no_trace_is_written_unasked(tmp_path, monkeypatch):
  monkeypatch.setattr(jax.profiler, "start_trace", lambda _: pytest.fail("traced"))
  quiet = profile.Profile(tmp_path, 0, 0)
  for step in range(30):
    quiet.before(step, jnp.zeros(()))
