# SPDX-License-Identifier: Apache-2.0
"""Our metrics against their peers in one run: do they agree, and what do they cost?

    pip install -e '.[parity]' lpips scikit-image
    python -m benchmarks.metrics
    python -m benchmarks.metrics --clips=4 --frames=2 --rows=64 --repeats=1   # quick

  lpips    the lpips package, VGG16
  ssim     scikit-image with Wang's settings
  i3d      features of 16-frame clips of 64x64 pixels, resized to 224: a plain torch I3D
  frechet  of two sets of 400 features: torch.linalg.eigvals of the covariances' product
  fvd      i3d and then frechet, with the same given weights on both sides (no time of
           its own)

No published weights are needed: both sides get the same random ones, with random
statistics, in the published file's layout. Each competitor has a process of its own and
they take turns (harness.py). Agreement is the largest difference over the largest value
of the peer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
import os
import pathlib
import tempfile
from typing import Any

import numpy as np

from benchmarks import harness

CASES = ("lpips", "ssim", "i3d", "frechet")
_PEERS = {"lpips": "lpips", "ssim": "scikit-image", "i3d": "torch", "frechet": "torch"}
_SIDE, _FRAMES, _EPSILON = 128, 16, 1e-3
Call = Callable[[], np.ndarray]


def _pictures(count: int) -> tuple[np.ndarray, np.ndarray]:
  """Smooth pictures and noisy copies, [count,S,S,3] uint8."""
  draw = np.random.default_rng(0)
  coarse = draw.uniform(0, 255, (count, 8, 8, 3))
  a = coarse.repeat(_SIDE // 8, 1).repeat(_SIDE // 8, 2)
  b = a + draw.normal(0, 20, a.shape)
  return tuple(np.clip(x, 0, 255).astype(np.uint8) for x in (a, b))


def _clips(count: int) -> np.ndarray:
  draw = np.random.default_rng(1)
  return draw.integers(0, 256, (count, _FRAMES, 64, 64, 3)).astype(np.uint8)


def _features(rows: int) -> tuple[np.ndarray, np.ndarray]:
  draw = np.random.default_rng(2)
  mix = draw.standard_normal((400, 400)) / 20
  return draw.standard_normal((rows, 400)) @ mix, draw.standard_normal((rows, 400)) @ mix + 1


def _lpips_state() -> dict[str, np.ndarray]:
  """Names and shapes of the converted file; He et al.'s scale, lins not negative."""
  from lamd_jax.interchange import keys
  from lamd_jax.interchange import perceptual as weights
  from lamd_jax.networks import perceptual

  draw, state = np.random.default_rng(3), {}
  for name, shape in keys.source_shapes(perceptual.shapes(), weights.rules()).items():
    scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) == 4 else 0.05
    state[name] = (draw.standard_normal(shape) * scale).astype(np.float32)
    state[name] = np.abs(state[name]) if name.startswith("lin") else state[name]
  return state


def _i3d_state() -> dict[str, np.ndarray]:
  from lamd_jax.interchange import i3d as weights
  from lamd_jax.networks import i3d
  from lamd_jax.tools import score_selftest

  return weights.to_state(score_selftest.filled(i3d.I3D(_EPSILON)))


def _ours(case: str, flags: argparse.Namespace) -> Call:
  import jax

  from lamd_jax.evaluation import extractors
  from lamd_jax.evaluation import frechet
  from lamd_jax.evaluation import image_quality
  from lamd_jax.evaluation.protocol import Protocol
  from lamd_jax.interchange import i3d as i3d_weights
  from lamd_jax.interchange import perceptual
  from lamd_jax.networks import i3d

  if case == "frechet":
    a, b = _features(flags.rows)
    return lambda: np.array([frechet.distance(a, b).total])
  if case == "i3d":
    params = i3d_weights.to_params(_i3d_state(), i3d.I3D(_EPSILON))
    extract = extractors.Extractor(Protocol("benchmark"), params, 1)
    clips = _clips(flags.clips)
    return lambda: np.concatenate(list(extract(clips)))
  a, b = (x[:, None] for x in _pictures(flags.frames))
  if case == "ssim":
    return lambda: image_quality.ssim(a, b)
  params = jax.device_put(perceptual.to_params(_lpips_state()))
  return lambda: image_quality.lpips(params, a, b, flags.frames)


def _peer(case: str, flags: argparse.Namespace) -> Call:
  if case == "ssim":
    return _skimage(flags)
  import torch

  torch.set_num_threads(flags.threads)
  function = {"frechet": _torch_frechet, "i3d": _torch_i3d, "lpips": _lpips}[case]
  return torch.inference_mode()(function(flags))


def _skimage(flags: argparse.Namespace) -> Call:
  from skimage import metrics

  a, b = _pictures(flags.frames)
  settings = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                  data_range=1.0, channel_axis=-1)  # fmt: skip

  def run() -> np.ndarray:
    return np.array([
      metrics.structural_similarity(x / 255.0, y / 255.0, **settings)
      for x, y in zip(a, b)
    ])

  return run


def _torch_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """The usual formula by another road than ours: no symmetric root, no eigh."""
  import torch

  x, y = torch.from_numpy(a), torch.from_numpy(b)
  c, d = torch.cov(x.T), torch.cov(y.T)
  root = torch.linalg.eigvals(c @ d).real.clamp(min=0).sqrt().sum()
  total = (x.mean(0) - y.mean(0)).square().sum() + c.trace() + d.trace() - 2 * root
  return total[None].numpy()


def _torch_frechet(flags: argparse.Namespace) -> Call:
  a, b = _features(flags.rows)
  return lambda: _torch_distance(a, b)


def _torch_i3d(flags: argparse.Namespace) -> Call:
  import torch
  from torch.nn import functional as F

  from benchmarks import torch_i3d

  model = torch_i3d.I3D(1, 400, 7, _EPSILON).eval()
  state = {k: torch.from_numpy(np.array(v)) for k, v in _i3d_state().items()}
  missing = model.load_state_dict(state, strict=False).missing_keys
  assert all("num_batches_tracked" in name for name in missing), missing
  clips = torch.from_numpy(_clips(flags.clips)).float()

  def run() -> np.ndarray:
    found = []
    for clip in clips:
      frames = (clip / 127.5 - 1).permute(0, 3, 1, 2)
      frames = F.interpolate(frames, (224, 224), mode="bilinear", align_corners=False)
      found.append(model(frames.permute(1, 0, 2, 3)[None]).double())
    return torch.cat(found).numpy()

  return run


def _lpips(flags: argparse.Namespace) -> Call:
  import lpips
  import torch

  model = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
  ours, state = _lpips_state(), {}
  for name in model.state_dict():
    # net.slice2.5.weight is features.5.weight.
    theirs = name.split(".")
    key = f"features.{theirs[2]}.{theirs[3]}" if theirs[0] == "net" else name
    if key in ours:
      state[name] = torch.from_numpy(ours[key])
  rest = model.load_state_dict(state, strict=False).missing_keys
  # Each linear layer is registered a second time, in a list.
  assert all(name.startswith(("lins.", "scaling_layer.")) for name in rest), rest
  a, b = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in _pictures(flags.frames))
  return lambda: model(a / 127.5 - 1, b / 127.5 - 1).flatten().double().numpy()


def _serve(flags: argparse.Namespace) -> None:
  call = (_ours if flags.side == "ours" else _peer)(flags.case, flags)
  harness.serve(call, {}, lambda: np.save(flags.save, call()))


def _far(ours: np.ndarray, peer: np.ndarray) -> float:
  return float(np.abs(ours - peer).max() / np.abs(peer).max())


def _command(side: str, case: str, save: pathlib.Path, flags: Any) -> list[str]:
  names = ("threads", "clips", "frames", "rows")
  return [
    "-m", "benchmarks.metrics", f"--side={side}", f"--case={case}", f"--save={save}",
    *(f"--{name}={vars(flags)[name]}" for name in names),
  ]  # fmt: skip


def _fvd(found: dict[str, np.ndarray]) -> float:
  """Agreement of whole scores: first half of the clips against the second half."""
  from lamd_jax.evaluation import frechet

  half = len(found["ours"]) // 2
  ours = frechet.distance(found["ours"][:half], found["ours"][half:]).total
  peer = _torch_distance(found["peer"][:half], found["peer"][half:])[0]
  return abs(ours / peer - 1)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--cases", default=",".join(CASES))
  add("--clips", type=int, default=8, help="of i3d; fvd needs 4")
  add("--frames", type=int, default=16, help="of lpips and ssim, 128x128")
  add("--rows", type=int, default=2048, help="of frechet, each set")
  add("--repeats", type=int, default=5)
  add("--threads", type=int, default=2)
  add("--json", default="", help="also write the figures to this file")
  for name in ("--side", "--case", "--save"):
    add(name, help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.side:
    harness.use_threads(flags.threads)
    _serve(flags)
    return
  # NumPy reads it once, at its import, which a worker does before anything else.
  os.environ["OMP_NUM_THREADS"] = str(flags.threads)
  report: dict[str, Any] = {"machine": harness.machine(), "cases": {}}
  print(report["machine"], flush=True)
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for case in flags.cases.split(","):
      files = {side: pathlib.Path(folder) / f"{case}-{side}.npy" for side in ("ours", "peer")}
      commands = {side: _command(side, case, file, flags) for side, file in files.items()}
      times = harness.compete(commands, flags.repeats)
      found = {side: np.load(file) for side, file in files.items()}
      far = _far(found["ours"], found["peer"])
      ours, peer = (t.least_cpu(flags.threads) for t in (times["ours"], times["peer"]))
      wall = {side: t.best for side, t in times.items()}
      report["cases"][case] = {"far": far, "wall": wall, "cpu": [ours, peer]}
      show = lambda side: f"{wall[side]:.3f} / {times[side].least_cpu(flags.threads):.3f}"
      rows.append([f"{case}, {_PEERS[case]}", f"{far:.1e}", show("ours"), show("peer"),
                   f"{wall['ours'] / wall['peer']:.2f}, {ours / peer:.2f}"])  # fmt: skip
      print(" | ".join(rows[-1]), flush=True)
      if case == "i3d" and flags.clips >= 4:
        report["fvd_far"] = _fvd(found)
        rows.append(["fvd with given weights, torch", f"{report['fvd_far']:.1e}"] + ["-"] * 3)
      if case == "i3d":
        rate = {side: flags.clips / seconds for side, seconds in wall.items()}
        report["clips_per_second"] = rate
        print("clips per second: ours {ours:.2f}, torch {peer:.2f}".format(**rate))
  head = ("case, peer", "largest relative difference", "ours: wall / cpu, s",
          "peer: wall / cpu, s", "ours / peer: wall, cpu")  # fmt: skip
  print("\n" + harness.table(head, rows), flush=True)
  if flags.json:
    pathlib.Path(flags.json).write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
  main()
