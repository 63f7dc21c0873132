# SPDX-License-Identifier: Apache-2.0
"""Compiles for TPUs and GPUs that are not there: does it fit, and what does it cost?

libtpu holds the compiler for every generation and needs no TPU. A program that is too
large for the chips' memory is a compile error, and so the answer to the question. What
that compiler says is exact about memory; nothing here says how fast a program runs.

The CUDA plugin compiles for a GPU that is described to it. It tries no algorithms out
as it would on the card, so its memory is an estimate, and it counts no FLOPs.
"""

from __future__ import annotations

from collections.abc import Sequence
import importlib.util
import math
import os
import re
import time
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from lamd_jax.errors import ConfigError

# Generation -> (dimensions of a slice, chips of the largest, GiB that the compiler has
# on a device, what libtpu wants beside the name). The chips are those of Google's pages
# on each; the GiB are libtpu 0.0.42's own, from programs that were too large.
GENERATIONS: dict[str, tuple[int, int, float, dict[str, Any]]] = {
  "v4": (3, 4096, 30.75, {"chip_config_name": "megacore"}),
  "v5e": (2, 256, 15.75, {}),
  "v5p": (3, 6144, 95.74, {}),
  "v6e": (2, 256, 31.25, {}),
  "tpu7x": (3, 9216, 94.75, {}),  # two devices a chip
}
_CARD = """platform_name: "CUDA" device_description_str: "NVIDIA {name}"
dnn_version_info {{ major: 9 minor: 8 }} runtime_version {{ major: 12 minor: 9 }}
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }} core_count: 132 fpus_per_core: 128
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  memory_bandwidth: {bandwidth} device_memory_size: {memory}
}}"""
# Card -> bytes of its memory, bytes a second.
CARDS = {
  "h100": (84_929_347_584, 3_352_320_000_000),
  "h200": (150_754_820_096, 4_800_000_000_000),
}
# What JAX takes of a card, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
_SHARE_OF_CARD = 0.75
_COLLECTIVES = (
  "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute"
)  # fmt: skip
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2,
          "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}  # fmt: skip


class Compiled(NamedTuple):
  """What the compiler says of one program, for one device."""

  fits: bool
  needed: int  # bytes of memory at the worst moment
  available: int  # bytes
  arguments: int  # bytes of them, there throughout
  flops: float  # a call, bodies of loops counted once; 0 where it is not known
  collectives: dict[str, tuple[int, int]]  # kind -> (number, bytes), loops once
  seconds: float  # that compiling took


def prepare() -> None:
  """Sets what libtpu and JAX read when they start, on a machine without a TPU."""
  jax.config.update("jax_platforms", "cpu")
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  # Else a lock file keeps a second process out.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  # What this host would be; else libtpu says twice that it does not know.
  os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  # A card that is there is left alone.
  os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def library() -> str:
  """Returns where libtpu lies; "" if it is not installed."""
  if path := os.environ.get("TPU_LIBRARY_PATH", ""):
    return path if os.path.exists(path) else ""
  found = importlib.util.find_spec("libtpu")
  return (found.origin or "") if found else ""


def cudnn() -> bool:
  """Whether attention by cuDNN can be compiled: no GPU is needed, but the library."""
  there = ("jax_cuda12_plugin", "nvidia", "nvidia.cudnn")
  return all(importlib.util.find_spec(name) for name in there)


def devices(topology: str) -> list[Any]:
  """Returns the devices of a slice such as "v5e:16x16", which need not exist.

  GPUs are "h200:8", those of one host, or "h200:4x8" for four such hosts.

  Raises:
    ConfigError: the name is not one, or its compiler is not installed.
  """
  generation, _, shape = topology.partition(":")
  if generation not in GENERATIONS and generation not in CARDS:
    raise ConfigError(
      f"--compile.topology={topology}: not known; take NAME:SHAPE, such as v5e:4x4 or"
      f" h200:8, with one of {', '.join((*GENERATIONS, *CARDS))}"
    )
  ranks = (1, 2) if generation in CARDS else GENERATIONS[generation][:1]
  if not re.fullmatch(r"\d+(x\d+)*", shape) or shape.count("x") + 1 not in ranks:
    raise ConfigError(
      f"--compile.topology={topology}: {generation} has {' or '.join(map(str, ranks))}"
      f" sizes, such as {generation}:{'x'.join('2' * ranks[-1])}"
    )
  chips = math.prod(map(int, shape.split("x")))
  if generation in GENERATIONS and chips > GENERATIONS[generation][1]:
    raise ConfigError(
      f"--compile.topology={topology}: {chips} chips; a slice of {generation} has"
      f" {GENERATIONS[generation][1]} at most"
    )
  wanted = _gpus(generation, shape) if generation in CARDS else _tpus(topology)
  prepare()
  try:
    return list(topologies.get_topology_desc(**wanted).devices)
  except Exception as error:  # the compilers raise what they like
    reason = str(error).splitlines()[0]
    raise ConfigError(
      f"--compile.topology={topology}: its compiler knows no such slice ({reason})"
    ) from error


def _tpus(topology: str) -> dict[str, Any]:
  if not library():
    raise ConfigError(
      "--mode=compile needs the TPU compiler: pip install 'lamd_jax[tpu]', or set"
      " TPU_LIBRARY_PATH to libtpu.so"
    )
  generation, _, shape = topology.partition(":")
  wanted = dict(platform="tpu", topology_name=topology, **GENERATIONS[generation][3])
  if set(shape) == {"1", "x"}:  # a single chip; else a host of four is assumed
    wanted["chips_per_host_bounds"] = [1, 1, 1]
  return wanted


def _gpus(card: str, shape: str) -> dict[str, Any]:
  if not importlib.util.find_spec("jax_cuda12_plugin"):
    raise ConfigError(
      f"--compile.topology={card}:{shape} needs the GPU compiler: pip install"
      " 'lamd_jax[cuda]' (no GPU is needed); TPU slices need lamd_jax[tpu]"
    )
  memory, bandwidth = CARDS[card]
  described = _CARD.format(name=card.upper(), memory=memory, bandwidth=bandwidth)
  hosts, _, gpus = shape.rpartition("x")
  # Slices x hosts x GPUs.
  return dict(
    platform="cuda", target_config=described, topology=f"1x{hosts or 1}x{gpus}"
  )


def available(topology: str) -> int:
  """Bytes of memory that a program has on one device."""
  name = topology.partition(":")[0]
  if name in CARDS:
    return round(CARDS[name][0] * _SHARE_OF_CARD)
  return round(GENERATIONS[name][2] * 2**30)


def compile_program(
  function: Any, arguments: Sequence[Any], topology: str, *, fast: bool = False
) -> Compiled:
  """Compiles a jitted function for a slice; `arguments` are abstract, with shardings.

  Args:
    function: what `jax.jit` returned.
    arguments: of it, jax.ShapeDtypeStruct with shardings on the slice.
    topology: the slice, as `devices` takes it.
    fast: spend less time; the program is slower and its memory another.
  """
  options = {"exec_time_optimization_effort": -1.0} if fast else {}
  if topology.partition(":")[0] in CARDS:
    # Without a card to try tiles on, XLA's own products may find none and fail.
    options["xla_gpu_enable_triton_gemm"] = False
  room, started = available(topology), time.monotonic()
  seconds = lambda: time.monotonic() - started
  try:
    compiled = function.lower(*arguments).compile(options)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    needed, held = overflow(str(error)), on_a_device(arguments)
    return Compiled(False, needed, room, held, 0.0, {}, seconds())
  memory = compiled.memory_analysis()
  needed = memory.peak_memory_in_bytes or (
    memory.argument_size_in_bytes + memory.output_size_in_bytes
    - memory.alias_size_in_bytes + memory.temp_size_in_bytes
  )  # fmt: skip
  return Compiled(
    fits=needed <= room,
    needed=needed,
    available=room,
    arguments=memory.argument_size_in_bytes,
    flops=float((compiled.cost_analysis() or {}).get("flops", 0.0)),
    collectives=collectives(compiled.as_text()),
    seconds=seconds(),
  )


def on_a_device(arguments: Sequence[Any]) -> int:
  """Bytes that abstract arguments take on one device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(arguments)
  )


def overflow(message: str) -> int:
  """Reads from the compiler's message how many bytes it wanted; 0 if it does not say."""
  for pattern in (r"Used ([\d.]+)([KMGT]) of", r"temporaries \(([\d.]+)([KMGT])\)"):
    if found := re.search(pattern, message):
      return round(float(found[1]) * 2 ** (10 * (1 + "KMGT".index(found[2]))))
  return 0


def collectives(text: str) -> dict[str, tuple[int, int]]:
  """Counts the collectives of a compiled program's text, and the bytes they yield.

  An asynchronous one is counted where it starts. A loop's body is counted once, however
  often it runs. For TPUs a collective that travels while others compute stands in each of
  their fusions, on one channel: it is counted once.
  """
  counts: dict[str, tuple[int, int]] = {}
  kinds, seen = "|".join(_COLLECTIVES), set()
  pattern = rf"= (.*?) ({kinds})(-start)?\((?:.*?channel_id=(\d+))?"
  for shapes, kind, start, channel in re.findall(pattern, text):
    if channel and (kind, channel) in seen:
      continue
    seen.add((kind, channel))
    parts = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shapes)
    if start and kind != "all-reduce":
      # Its operands come before its results, and numbers of its own may follow.
      parts = [part for part in parts if part[1]]
      parts = parts[len(parts) // 2 :]
    sizes = [
      _BYTES.get(dtype, 4) * math.prod(int(n) for n in dims.split(",") if n)
      for dtype, dims in parts
    ]
    number, total = counts.get(kind, (0, 0))
    counts[kind] = (number + 1, total + sum(sizes))
  return counts
