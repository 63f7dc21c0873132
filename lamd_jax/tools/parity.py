# SPDX-License-Identifier: Apache-2.0
"""Do our networks compute what the reference implementation computes?

  python -m lamd_jax.tools.parity DIR

runs every case of DIR/cases.json against DIR/<case>.npz, prints one line a case and
leaves with status 1 if an error lies above 1e-4. An npz holds inputs, outputs, a loss
and the norm of its gradient for each weight, all in PyTorch's layout; the weights
follow from their names (`interchange.fill`) and are checked before anything runs.
Error = max|a-b| / max(1, max|b|), over an output or over all gradient norms.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax import config
from lamd_jax import errors
from lamd_jax import types
from lamd_jax.errors import DataError, InputError, WeightsError
from lamd_jax.interchange import fill
from lamd_jax.interchange import keys
from lamd_jax.interchange import lvdm_autoencoder
from lamd_jax.interchange import lvdm_unet
from lamd_jax.networks.image_autoencoder import ImageAutoencoder
from lamd_jax.networks.video_autoencoder import VideoAutoencoder
from lamd_jax.nn import initializers
from lamd_jax.systems import lvdm_blocks
from lamd_jax.tools import paths

LIMIT = 1e-4

Data = Mapping[str, np.ndarray]
Errors = dict[str, float]

# Every program runs once, so compiling fast beats running fast.
_COMPILE = {"xla_backend_optimization_level": 0}


def relative_error(ours: Any, reference: Any) -> float:
  """max|a-b| / max(1, max|b|); NaN if either has one."""
  ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
  if ours.shape != reference.shape:
    raise DataError(f"our shape is {ours.shape}, the reference's {reference.shape}")
  return float(np.abs(ours - reference).max() / max(1.0, np.abs(reference).max()))


def channels_last(x: np.ndarray) -> np.ndarray:
  """[B,C,...] -> [B,...,C]."""
  return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def _back(x: jax.Array) -> np.ndarray:
  return np.moveaxis(np.asarray(x), -1, 1)


def filled_state(data: Data) -> dict[str, np.ndarray]:
  """Returns the state dict of an npz, checked against the sums that it records."""
  names = [str(k) for k in data["keys"]]
  column = lambda name: dict(zip(names, data[name].tolist()))
  shapes = dict(zip(names, map(tuple, json.loads(str(data["shapes"])))))
  state = fill.state(shapes, column("norm_scale"))
  wrong = fill.unlike(state, column("w_sum"), column("w_sumsq"))
  if wrong:
    raise WeightsError(f"filled weights have other sums than recorded: {wrong}")
  return state


def unet_blocks(intermediates: Mapping[str, Any]) -> dict[str, jax.Array]:
  """Outputs of the UNet's blocks under the names that npz files use.

  Args:
    intermediates: what `capture_intermediates` collected, a module's output each.
  """
  modules = {"time_embed": "time_embedding", "in0": "in_conv", "mid": "middle_res_1"}
  # In the order of computation: a block's output is that of its last module.
  for part in ("res", "attention", "resample"):
    for name in intermediates:
      side, _, rest = name.partition("_")
      if side in ("down", "up") and rest.endswith(part):
        modules[{"down": "in", "up": "out"}[side] + rest.split("_")[0]] = name
  return {k: intermediates[name]["__call__"][0] for k, name in modules.items()}


def gradient_error(
  gradients: keys.Params, rules: list[keys.Rule], data: Data
) -> float:
  """Compares the norms of all gradients; renaming and layout do not change a norm."""
  state = keys.to_state(gradients, rules)
  names = [str(k) for k in data["grad_keys"]]
  # The reference names some convolutions by an alias without ".conv".
  real = lambda k: k if k in state else k.replace(".weight", ".conv.weight")
  norms = [np.linalg.norm(state[real(k)].astype(np.float64)) for k in names]
  return relative_error(norms, data["grad_l2"])


def run_unet(settings: Mapping[str, Any], data: Data) -> Errors:
  """Returns the errors of output, blocks, loss and gradients of a UNet."""
  settings = {k: 0 if v is None else v for k, v in settings.items()}
  settings = {**config.defaults().model.denoiser.to_dict(), **settings}
  unet = lvdm_blocks.unet(settings, settings["out_channels"], remat="none")
  x, target = channels_last(data["x"]), channels_last(data["target"])
  t = data["t"].astype(np.float32)
  conditions = types.Conditions(
    context=data["context"] if "context" in data else None,
    noise_level=data["s"].astype(np.int32) if "s" in data else None,
  )
  expected = initializers.shapes(unet, x, t, conditions)["params"]
  rules = lvdm_unet.rules(expected)
  params = keys.to_params(filled_state(data), rules, expected)

  def loss(params):
    y, collected = unet.apply(
      {"params": params},
      x,
      t,
      conditions,
      capture_intermediates=True,
      mutable=["intermediates"],
    )
    return jnp.abs(y - target).mean(), (y, unet_blocks(collected["intermediates"]))

  step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=_COMPILE)
  (value, (y, blocks)), gradients = step(params)
  return {
    "output": relative_error(_back(y), data["y"]),
    "blocks": max(relative_error(_back(blocks[k]), data[k]) for k in blocks),
    "loss": relative_error(value, data["l1_loss"]),
    "gradients": gradient_error(gradients, rules, data),
  }


def run_video_autoencoder(settings: Mapping[str, Any], data: Data) -> Errors:
  """Returns the errors of moments and reconstruction, of loss and of gradients."""
  settings = {**config.defaults().model.autoencoder.to_dict(), **settings}
  autoencoder = VideoAutoencoder(**settings)
  x, noise = channels_last(data["x"]), channels_last(data["noise"])
  expected = initializers.shapes(autoencoder, x)["params"]
  rules = lvdm_autoencoder.video_rules(expected)
  params = keys.to_params(filled_state(data), rules, expected)

  def loss(params):
    net = autoencoder.bind({"params": params})
    mean, log_variance = net.encode(x)
    recon = net.decode(mean + jnp.exp(log_variance / 2) * noise)
    kl = jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance
    outputs = {"mean": mean, "logvar": log_variance, "recon": recon}
    return jnp.abs(recon - x).mean() + 1e-3 * kl.sum() / 2, outputs

  step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=_COMPILE)
  (value, outputs), gradients = step(params)
  return {
    "output": max(relative_error(_back(v), data[k]) for k, v in outputs.items()),
    "loss": relative_error(value, data["loss"]),
    "gradients": gradient_error(gradients, rules, data),
  }


def run_image_autoencoder(settings: Mapping[str, Any], data: Data) -> Errors:
  """Returns the error of moments and reconstruction; no loss is recorded."""
  settings = dict(settings)
  reductions = settings.pop("attention_resolutions")
  if reductions:
    raise DataError(
      f"attention_resolutions is {reductions}; ours has attention in the middle only"
    )
  groups = config.defaults().model.autoencoder.groups
  autoencoder = ImageAutoencoder(**{"groups": groups, **settings})
  x = channels_last(data["x"])[:, None]  # images are clips of one frame
  expected = initializers.shapes(autoencoder, x)["params"]
  rules = lvdm_autoencoder.image_rules(expected)
  params = keys.to_params(filled_state(data), rules, expected)

  def run(params):
    net = autoencoder.bind({"params": params})
    mean, log_variance = net.encode(x)
    moments = jnp.concatenate([mean, log_variance], axis=-1)
    return {"moments": moments, "recon_from_mean": net.decode(mean)}

  outputs = jax.jit(run, compiler_options=_COMPILE)(params)
  errors = [relative_error(_back(v[:, 0]), data[k]) for k, v in outputs.items()]
  return {"output": max(errors)}


KINDS: dict[str, Callable[[Mapping[str, Any], Data], Errors]] = {
  "unet": run_unet,
  "video_autoencoder": run_video_autoencoder,
  "image_autoencoder": run_image_autoencoder,
}


def read_cases(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Returns {case: settings} of a folder."""
  path = folder / "cases.json"
  if not path.is_file():
    raise DataError(f"{path} does not exist; name a folder that holds a cases.json")
  return json.loads(path.read_text())


def run_case(folder: pathlib.Path, name: str, settings: Mapping[str, Any]) -> Errors:
  """Runs one case and returns its errors by what was compared."""
  settings = dict(settings)
  kind = settings.pop("kind")
  if kind not in KINDS:
    raise DataError(f"kind {kind!r} is unknown; choose from {sorted(KINDS)}")
  path = folder / f"{name}.npz"
  if not path.is_file():
    raise DataError(f"{path} does not exist")
  with np.load(path, allow_pickle=False) as data:
    arrays = dict(data)
  try:
    return KINDS[kind](settings, arrays)
  except KeyError as error:
    raise DataError(f"{path.name} or its entry in cases.json lacks {error}") from error


def uncovered(folder: pathlib.Path, cases: Mapping[str, Any]) -> list[str]:
  """Returns the names of data files in `folder` that no case reads."""
  read = {"cases.json", *(f"{name}.npz" for name in cases)}
  names = {p.name for p in folder.iterdir() if p.suffix in (".npz", ".json")}
  return sorted(names - read)


def run(folder: pathlib.Path) -> bool:
  """Runs all cases of `folder`, prints a line each; returns whether all passed."""
  cases = read_cases(folder)
  passed = 0
  for name, settings in cases.items():
    try:
      errors = run_case(folder, name, settings)
    except InputError as error:
      print(f"{name}: FAILED: {error}", flush=True)
      continue
    # Written so that NaN fails.
    good = all(error <= LIMIT for error in errors.values())
    passed += good
    figures = "  ".join(f"{what} {error:.1e}" for what, error in errors.items())
    print(f"{name}: {'ok' if good else 'FAILED'}  {figures}", flush=True)
  print(f"{passed} of {len(cases)} cases within {LIMIT:g}")
  for name in uncovered(folder, cases):
    print(f"no case covers {name}")
  return passed == len(cases)


def main(argv: list[str] | None = None) -> int:
  """Returns the exit status."""
  parser = argparse.ArgumentParser(prog="lamd_jax.tools.parity", description=__doc__)
  parser.add_argument("dir", type=paths.path, help="folder with cases.json")
  folder = parser.parse_args(argv).dir
  return errors.exit_code(lambda: 0 if run(folder) else 1)


if __name__ == "__main__":
  sys.exit(main())
