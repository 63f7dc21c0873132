# SPDX-License-Identifier: Apache-2.0
"""tools.score --selftest: known numbers, from sums to a published score.

Each rung passes, fails, or says what it would need. The first two run anywhere; the
third wants FVD's weights, the fourth also LVDM's samples (6.4 GB) and the real clips.
The fifth breaks the network on purpose: a test that still passed would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
import zlib

import jax
import numpy as np

from lamd_jax.evaluation import clip_sources
from lamd_jax.evaluation import extractors
from lamd_jax.evaluation import frechet
from lamd_jax.evaluation import mmd
from lamd_jax.evaluation import protocol as protocol_lib
from lamd_jax.interchange import fill
from lamd_jax.interchange import i3d as weights_file
from lamd_jax.interchange import keys
from lamd_jax.networks import i3d
from lamd_jax.training import compile_cache
from lamd_jax.training.console import Console

LIMIT = 1e-5  # relative, of the largest score
# First five class scores, and the largest of 400 by size, of the network filled by
# rule on the clip drawn by rule: LVDM's port, epsilon 1e-5, PyTorch in float32.
_SCORES = np.array([-2.5546911, 4.756186, -6.4216089, 0.36787063, 0.089837641])
_LARGEST = 24.029732
# fvd-comparison's published number, for two sets of noise fed without preparation.
_NOISE_FVD, _NOISE_CLIPS = 10.13808, 128
# What LVDM's paper reports for sky, and three of its deviations.
_SKY_FVD, _SKY_SPREAD = 95.2, 3 * 2.3


class Outcome(NamedTuple):
  rung: str
  passed: bool | None  # None: not run
  says: str


def _closed_forms() -> Iterator[Outcome]:
  draw = np.random.default_rng(0).standard_normal((500, 6))
  draw -= draw.mean(0)
  draw = draw @ np.linalg.inv(np.linalg.cholesky(np.cov(draw, rowvar=False))).T
  std = np.arange(1.0, 7)
  # |dm|^2 + sum (s1 - s2)^2: 6 * 4 and 0 + 1 + 4 + 9 + 16 + 25.
  found = frechet.distance(draw, draw * std + 2).total
  yield Outcome("Frechet, commuting Gaussians", abs(found - 79) < 1e-6, f"{found:.6f}, 79")
  ones = np.array([[1.0, 0], [1, 0]])
  # Kernels (1/2 + 1)^3 within each set and 1 across.
  found = mmd.unbiased_cubic(ones, ones[:, ::-1])
  yield Outcome("MMD by hand", abs(found - 4.75) < 1e-9, f"{found:.6f}, 4.75")


def filled(network: i3d.I3D) -> Any:
  """The network's parameters by `interchange.fill`, from their names alone."""
  shapes = weights_file.shapes(network)
  names = keys.source_shapes(shapes, weights_file.rules(shapes, "piergiaj"))
  scales = {name: name.endswith("bn.weight") for name in names}
  return weights_file.to_params(fill.state(names, scales), network)


def _random_weights() -> Iterator[Outcome]:
  network = i3d.I3D(epsilon=1e-5)
  params = filled(network)
  draw = np.random.RandomState(zlib.crc32(b"input:i3d_x"))
  clip = np.tanh(draw.standard_normal((1, 3, 16, i3d.SIZE, i3d.SIZE)))
  clip = clip.astype(np.float32).transpose(0, 2, 3, 4, 1)

  def far(params: Any, network: i3d.I3D) -> float:
    with jax.default_matmul_precision("highest"):
      scores = np.asarray(jax.jit(network.apply)({"params": params}, clip))[0]
    return float(np.abs(scores[: len(_SCORES)] - _SCORES).max() / _LARGEST)

  error = far(params, network)
  yield Outcome("I3D, weights by rule", error < LIMIT, f"relative error {error:.1e}")
  error = far(params, i3d.I3D(epsilon=1e-3))
  yield Outcome("  another epsilon must fail", error > 10 * LIMIT, f"{error:.1e}")
  block = params["Mixed_3c"]
  swapped = {**params, "Mixed_3c": {**block, "b0": block["b1a"], "b1a": block["b0"]}}
  error = far(swapped, network)
  yield Outcome("  swapped branches must fail", error > 10 * LIMIT, f"{error:.1e}")


def _noise_fvd(params: Any) -> Outcome:
  network, sets = i3d.I3D(epsilon=1e-3), []
  apply = jax.jit(lambda params, x: network.apply({"params": params}, x))
  for seed in (1, 2):
    console = Console(f"selftest: noise {seed}", _NOISE_CLIPS)
    draw, found = np.random.RandomState(seed), []
    for i in range(_NOISE_CLIPS):
      clip = draw.rand(1, 16, i3d.SIZE, i3d.SIZE, 3).astype(np.float32)
      with jax.default_matmul_precision("highest"):
        found.append(np.asarray(apply(params, clip))[0])
      console.advance(i + 1)
    console.line()
    sets.append(np.stack(found))
  value = frechet.distance(*sets).total
  passed = abs(value / _NOISE_FVD - 1) < 1e-3
  return Outcome("published distance of noise", passed, f"{value:.5f}, {_NOISE_FVD}")


def _lvdm_samples(params: Any, samples: str, real: str) -> Outcome:
  protocol = protocol_lib.find("lvdm")
  extract = extractors.Extractor(protocol, params, 8)
  sets = []
  for path, sampling in ((real, "random"), (samples, "first")):
    source = clip_sources.open_source(path)
    where, _ = clip_sources.places(source, 16, 1, sampling, protocol.reals, 0)
    clips = clip_sources.clips(source, where, 16, 1, protocol.pixels)
    sets.append(np.concatenate(list(extract(clips))))
  value = frechet.distance(*sets).total
  passed = abs(value - _SKY_FVD) < _SKY_SPREAD
  return Outcome("LVDM's sky samples", passed, f"FVD[lvdm] {value:.1f}, {_SKY_FVD}")


def outcomes(weights: str, samples: str, real: str) -> Iterator[Outcome]:
  """Yields what came of each rung, in order."""
  yield from _closed_forms()
  yield from _random_weights()
  needs = "not run: needs --weights"
  if not weights:
    yield Outcome("published distance of noise", None, needs)
  else:
    params = weights_file.load(weights, i3d.I3D(epsilon=1e-3))
    yield _noise_fvd(params)
  yield Outcome(
    "kinetics-i3d's cricket clip", None,
    "not run: it holds for rgb_imagenet's weights, which give no FVD",
  )  # fmt: skip
  if weights and samples and real:
    yield _lvdm_samples(params, samples, real)
  else:
    yield Outcome("LVDM's sky samples", None, f"{needs}, --samples NPZ and --real")


_WORDS: dict[bool | None, str] = {True: "pass", False: "FAIL", None: "-"}


def run(
  weights: str, samples: str, real: str, show: Callable[[str], None] = print
) -> int:
  """Prints the ladder. Returns the exit code: 0, or 1 if a rung failed."""
  compile_cache.enable()
  failed = False
  for outcome in outcomes(weights, samples, real):
    show(f"{_WORDS[outcome.passed]:<6}{outcome.rung:<32}{outcome.says}")
    failed |= outcome.passed is False
  return int(failed)
