# SPDX-License-Identifier: Apache-2.0
"""Checks of a config before anything is compiled.

Two tables say what each leaf may hold; a few functions say what must fit together.
Every message names the key, the value, the limit and the fix, in one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import math
from typing import Any

from ml_collections import ConfigDict

from lamd_jax.errors import ConfigError

# Leaves that hold one of a few words. "" is allowed only where it is listed.
CHOICES: dict[str, tuple[str, ...]] = {
  "system": ("lvdm",),
  "variant": ("paper", "demo", "gpu"),
  "data.source": (
    "procedural", "folder", "frames", "ucf101", "taichi", "tfds", "array_record",
  ),
  "data.world": ("sky",),
  "data.world_mode": ("drift", "two_layer", "dusk"),
  "data.resize": ("crop_antialias", "crop", "squash", "letterbox"),
  "data.sampling": ("random", "tile", "first", "linspace"),
  "model.discriminator.kind": ("frame", "video"),
  "model.discriminator.norm": ("batch", "group"),
  "loss.reconstruction": ("l1", "mse"),
  "diffusion.schedule": ("linear", "scaled_linear", "cosine"),
  "diffusion.prediction": ("eps", "x0", "v", "flow"),
  "diffusion.loss": ("l1", "l2"),
  "optim.*.optimizer": ("adamw", "muon"),
  "optim.*.schedule": ("constant", "cosine"),
  "train.mesh": ("one", "dp", "fsdp"),
  "train.compute": ("auto", "float32", "bfloat16"),
  "train.remat": ("none", "full", "names"),
  "train.checkpoint_verify": ("full", "size", "off"),
  "sampler": ("ddpm", "ddim", "dpmpp_2m", "unipc", "heun", "euler"),
  "spacing": ("trailing", "uniform", "log_snr", "ddim_release"),
  "weights": ("ema", "raw"),
}  # fmt: skip

# Leaves that hold a number, or a tuple of numbers: smallest and largest value.
LIMITS: dict[str, tuple[float, float]] = {
  "seed": (0, 2**31 - 1),
  "data.num_videos": (1, 10**8),
  "data.frames": (1, 4096),
  "data.size": (8, 4096),
  "data.stride": (1, 10_000),
  "data.max_bad_fraction": (0, 1),
  "data.fps": (0.1, 1000),
  "data.num_threads": (0, 1024),
  "data.num_workers": (0, 1024),
  "data.prefetch": (1, 1024),
  "model.autoencoder.channels": (1, 8192),
  "model.autoencoder.downsample": (1, 64),
  "model.autoencoder.latent_channels": (1, 1024),
  "model.autoencoder.groups": (1, 1024),
  "model.denoiser.channels": (4, 16_384),
  "model.denoiser.channel_mult": (1, 64),
  "model.denoiser.res_blocks": (1, 32),
  "model.denoiser.attention_downsample": (1, 64),
  "model.denoiser.heads": (1, 256),
  "model.denoiser.temporal_kernel": (1, 9),
  "model.denoiser.temporal_length": (1, 4096),
  "model.denoiser.context_dim": (0, 65_536),
  "model.denoiser.noise_level_classes": (0, 100_000),
  "model.discriminator.channels": (1, 8192),
  "model.discriminator.layers": (1, 8),
  "loss.perceptual_weight": (0, 1e6),
  "loss.kl_weight": (0, 1e6),
  "loss.gan_weight": (0, 1e6),
  "loss.gan_start": (0, 2**31 - 1),
  "diffusion.beta_start": (1e-8, 0.999),
  "diffusion.beta_end": (1e-8, 0.999),
  "diffusion.steps": (2, 100_000),
  "diffusion.min_snr_gamma": (0, 1e6),
  "optim.*.steps": (1, 10**9),
  "optim.*.batch": (1, 10**6),
  "optim.*.accumulate": (1, 10**6),
  "optim.*.learning_rate": (0, 10),
  "optim.*.warmup": (0, 10**9),
  "optim.*.final_fraction": (0, 1),
  "optim.*.b1": (0, 0.9999999),
  "optim.*.b2": (0, 0.9999999),
  "optim.*.epsilon": (1e-30, 1),
  "optim.*.weight_decay": (0, 10),
  "optim.*.clip_norm": (0, 1e9),
  "optim.*.ema_decay": (0, 0.9999999),
  "train.latent_windows": (1, 10_000),
  "train.latent_samples": (1, 10**7),
  "train.checkpoint_every": (1, 10**9),
  "train.checkpoint_keep": (1, 10**6),
  "train.checkpoint_keep_every": (0, 10**9),
  "train.log_every": (1, 10**9),
  "train.preview_every": (0, 10**9),
  "train.preview_clips": (1, 1024),
  "train.preview_steps": (1, 10_000),
  "train.max_nonfinite": (1, 10**6),
  # --sample.* and --eval.*
  "n": (1, 10**7),
  "batch": (1, 10**5),
  "frames": (0, 10**6),
  "steps": (1, 100_000),
  "eta": (0, 1),
  "guidance": (0, 1000),
  "decode_chunk": (1, 10**5),
  "fps": (0, 1000),
  "clips": (8, 10**7),
  "bootstrap": (10, 10**6),
}

# Leaves that hold any text, and leaves that are checked by a function below.
FREE_TEXT = (
  "name", "data.root", "data.name", "data.split", "data.eval_split",
  "model.perceptual.weights", "out",
)  # fmt: skip
CHECKED_BELOW = ("stages", "formats")


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Yields (dotted key, value) of every leaf."""
  for key, value in tree.items():
    if isinstance(value, Mapping | ConfigDict):
      yield from leaves(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", value


def _pattern(key: str) -> str:
  """optim.<stage>.steps is checked as optim.*.steps."""
  parts = key.split(".")
  return ".".join(["optim", "*", *parts[2:]]) if parts[0] == "optim" else key


def _check_leaf(flag: str, key: str, value: Any) -> None:
  pattern = _pattern(key)
  if pattern in CHOICES:
    if value not in CHOICES[pattern]:
      known = ", ".join(CHOICES[pattern])
      raise ConfigError(f"--{flag}.{key}={value}: not known; choose one of {known}")
  elif pattern in LIMITS:
    low, high = LIMITS[pattern]
    for number in value if isinstance(value, tuple) else (value,):
      finite = isinstance(number, int | float) and math.isfinite(number)
      if not finite or not low <= number <= high:
        raise ConfigError(
          f"--{flag}.{key}={value}: must lie between {low:g} and {high:g}"
        )


def _fail(key: str, value: Any, limit: str) -> None:
  raise ConfigError(f"--config.{key}={value}: {limit}")


def _check_model(config: ConfigDict) -> None:
  data, autoencoder = config.data, config.model.autoencoder
  if len(autoencoder.downsample) != 3:
    _fail("model.autoencoder.downsample", autoencoder.downsample,
          "needs three factors (t,h,w)")  # fmt: skip
  for name, factor in zip(("t", "h", "w"), autoencoder.downsample):
    if factor & (factor - 1):
      _fail("model.autoencoder.downsample", autoencoder.downsample,
            f"the {name} factor {factor} is no power of two")  # fmt: skip
  factor_t, factor_h, factor_w = autoencoder.downsample
  if data.frames % factor_t:
    _fail("data.frames", data.frames,
          f"not divisible by the autoencoder's time factor {factor_t}; nearest:"
          f" {max(1, round(data.frames / factor_t)) * factor_t}")  # fmt: skip
  factor = math.lcm(factor_h, factor_w)
  depth = 2 ** (len(config.model.denoiser.channel_mult) - 1)
  total = factor * depth
  if data.size % total:
    _fail("data.size", data.size,
          f"not divisible by {total} (autoencoder factor {factor} x denoiser factor"
          f" {depth}); nearest: {max(1, round(data.size / total)) * total}")  # fmt: skip
  if autoencoder.channels * 2 % autoencoder.groups:
    _fail("model.autoencoder.groups", autoencoder.groups,
          f"must divide 2 x channels = {autoencoder.channels * 2}")  # fmt: skip
  _check_denoiser(config)


def _check_denoiser(config: ConfigDict) -> None:
  denoiser = config.model.denoiser
  if denoiser.channels % 32:
    _fail("model.denoiser.channels", denoiser.channels,
          "must be a multiple of 32, the groups of its norms")  # fmt: skip
  for mult in denoiser.channel_mult:
    if denoiser.channels * mult % denoiser.heads:
      _fail("model.denoiser.heads", denoiser.heads,
            f"must divide every width, {denoiser.channels} x {mult}")  # fmt: skip
  deepest = 2 ** (len(denoiser.channel_mult) - 1)
  for factor in denoiser.attention_downsample:
    if factor > deepest or factor & (factor - 1):
      _fail("model.denoiser.attention_downsample", denoiser.attention_downsample,
            f"{factor} is no level; levels are 1, 2, ..., {deepest}")  # fmt: skip
  if denoiser.temporal_kernel % 2 == 0:
    _fail("model.denoiser.temporal_kernel", denoiser.temporal_kernel, "must be odd")


def _check_optim(config: ConfigDict, devices: int) -> None:
  known = tuple(config.optim)
  if not config.stages:
    _fail("stages", config.stages, f"names no stage; choose from {', '.join(known)}")
  for stage in config.stages:
    if stage not in known:
      _fail("stages", config.stages,
            f"{stage} is no stage; choose from {', '.join(known)}")  # fmt: skip
    optim = config.optim[stage]
    if optim.batch % (optim.accumulate * devices):
      _fail(f"optim.{stage}.batch", optim.batch,
            f"must be a multiple of accumulate x devices = {optim.accumulate} x"
            f" {devices}, the mesh {config.train.mesh}; nearest:"
            f" {-(-optim.batch // (optim.accumulate * devices)) * optim.accumulate * devices}")  # fmt: skip
    if config.data.source == "procedural" and optim.batch > config.data.num_videos:
      _fail(f"optim.{stage}.batch", optim.batch,
            f"larger than the data, data.num_videos={config.data.num_videos}")  # fmt: skip
    if optim.warmup > optim.steps:
      _fail(f"optim.{stage}.warmup", optim.warmup,
            f"longer than optim.{stage}.steps={optim.steps}")  # fmt: skip


def _check_diffusion(config: ConfigDict) -> None:
  diffusion = config.diffusion
  if diffusion.beta_start >= diffusion.beta_end:
    _fail("diffusion.beta_start", diffusion.beta_start,
          f"must be below diffusion.beta_end={diffusion.beta_end}")  # fmt: skip
  if diffusion.zero_terminal_snr and diffusion.prediction == "eps":
    _fail("diffusion.prediction", diffusion.prediction,
          "cannot be learnt with diffusion.zero_terminal_snr, where the last z holds no"
          " signal; use v")  # fmt: skip
  if config.train.preview_steps > diffusion.steps:
    _fail("train.preview_steps", config.train.preview_steps,
          f"more than diffusion.steps={diffusion.steps}")  # fmt: skip


def check_config(config: ConfigDict, devices: int) -> None:
  """Raises ConfigError if the config cannot be run on this number of devices."""
  for key, value in leaves(config):
    _check_leaf("config", key, value)
  _check_model(config)
  _check_diffusion(config)
  _check_optim(config, 1 if config.train.mesh == "one" else devices)


def check_sample(sample: ConfigDict, config: ConfigDict) -> None:
  """Raises ConfigError if `--sample.*` does not fit the run's config."""
  for key, value in leaves(sample):
    _check_leaf("sample", key, value)
  unknown = set(sample.formats) - {"mp4", "gif", "png", "npz"}
  if unknown or not sample.formats:
    raise ConfigError(
      f"--sample.formats={sample.formats}: choose from mp4, gif, png, npz"
    )
  _check_steps("sample", sample, config)
  if sample.guidance != 1:
    raise ConfigError(
      f"--sample.guidance={sample.guidance}: this run's model has no condition to be"
      " guided by; leave it at 1"
    )
  factor = config.model.autoencoder.downsample[0]
  if sample.frames % factor:
    raise ConfigError(
      f"--sample.frames={sample.frames}: not divisible by the autoencoder's time"
      f" factor {factor}"
    )


def check_eval(evaluation: ConfigDict, config: ConfigDict) -> None:
  """Raises ConfigError if `--eval.*` does not fit the run's config."""
  for key, value in leaves(evaluation):
    _check_leaf("eval", key, value)
  _check_steps("eval", evaluation, config)


def _check_steps(flag: str, group: ConfigDict, config: ConfigDict) -> None:
  if group.steps > config.diffusion.steps:
    raise ConfigError(
      f"--{flag}.steps={group.steps}: more than the diffusion.steps="
      f"{config.diffusion.steps} of the run"
    )
