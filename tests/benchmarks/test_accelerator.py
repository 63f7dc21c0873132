# SPDX-License-Identifier: Apache-2.0
"""The benchmark of accelerators: its cases exist, its lines are kept, its table is right."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import accelerator
from lamd_jax import command_line
from tests import tiny

LINE = {"case": "train:a.py:x:8", "ran": "train:a.py:x:4", "seconds": [0.3, 0.2, 0.1],
        "flops": 2e13, "clips": 4, "memory": 2**31, "first": 61.0,
        "device": "NVIDIA H200"}  # fmt: skip
MATMUL = {"case": "matmul", "ran": "matmul", "seconds": [0.001, 0.003, 0.001], "flops": 8e11,
          "memory": 0, "first": 1.0, "device": "NVIDIA H200"}  # fmt: skip


def test_every_case_is_of_a_config_that_is_there():
  for case in accelerator.CASES:
    kind, _, rest = case.partition(":")
    if kind == "matmul":
      continue
    config = command_line.load_config(rest.split(":")[0])
    assert kind.removesuffix("+cudnn") in ("train", "sample", "decode", "long")
    assert not kind.startswith("train") or rest.split(":")[1] in config.stages


def test_utilisation_is_of_the_peak_and_of_what_products_reached():
  rows = accelerator.table([MATMUL, LINE, {"case": "long:b", "failed": "why"}])
  matmul, train, failed = rows.splitlines()[2:]
  assert "| 800.0 | 80.9% | 100.0% |" in matmul  # of 989 TFLOP/s
  # 2e13 in 0.2 s are 100 TFLOP/s: 10.1 % of 989, 12.5 % of 800.
  assert train == (
    "| train:a.py:x:4 | 0.1000 / 0.2000 | 20.00 clips/s | 100.0 | 10.1% | 12.5% | 2.0 | 61 |"
  )
  assert failed.endswith("| why |")


def test_too_many_clips_are_halved(monkeypatch):
  tried = []

  def compete(commands, repeats):
    tried.append(commands["ours"][-1])
    raise SystemExit("out of memory")

  monkeypatch.setattr(accelerator.harness, "compete", compete)
  assert "failed" in accelerator.measure("train:a.py:x:6")
  assert [x.rpartition(":")[2] for x in tried] == ["6", "3", "1"]
  tried.clear()
  accelerator.measure("long:a.py:hierarchical:10")  # 10 are steps
  assert len(tried) == 1


def test_a_second_start_goes_on(tmp_path, monkeypatch):
  out, asked = tmp_path / "x.jsonl", []
  monkeypatch.setattr(
    accelerator, "measure", lambda case: asked.append(case) or {**MATMUL, "case": case}
  )
  run = lambda *flags: (
    monkeypatch.setattr(sys, "argv", ["accelerator", f"--out={out}", *flags]),
    accelerator.main(),
  )
  run("--cases=a,b")
  run("--cases=a,b,c")
  run("--cases=d", "--minutes=-1")
  assert asked == ["a", "b", "c"]
  assert [json.loads(x)["case"] for x in out.read_text().splitlines()] == asked


def test_weights_are_random_and_the_optimizer_is_at_its_start():
  shape = jax.ShapeDtypeStruct((64,), jnp.float32)
  found = accelerator._filled({"params": shape, "opt_state": shape, "extras": shape})
  assert found["params"].min() < 0 < found["params"].max()
  assert not found["opt_state"].any() and np.all(found["extras"] >= 0)


def test_what_is_computed_anew_is_no_work(monkeypatch):
  found = []
  for remat in ("none", "full"):
    config = tiny.config(train__remat=remat)
    monkeypatch.setattr(accelerator.command_line, "load_config", lambda _: config)
    found.append(accelerator.program("train:tiny.py:diffusion:1")[1]["flops"])
  assert found[0] == found[1] > 0


def test_a_case_runs_and_knows_its_work():
  call, facts = accelerator.program("decode:configs/lvdm_sky.py:demo:1")
  frames = call()
  assert frames.dtype == jnp.uint8 and frames.shape[0] == 1
  assert facts["clips"] == 1 and facts["flops"] > 1e9 and accelerator._CALLS["decode"] > 1
