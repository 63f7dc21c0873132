# SPDX-License-Identifier: Apache-2.0
"""What each leaf of a config may hold: two tables, and the check that reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import math
from typing import Any

from ml_collections import ConfigDict

from lamd_jax.errors import ConfigError

# Leaves that hold one of a few words. "" is allowed only where it is listed.
CHOICES: dict[str, tuple[str, ...]] = {
  "system": ("lvdm", "lamd", "gen1"),
  "variant": ("paper", "demo", "gpu"),
  "data.source": (
    "procedural", "folder", "frames", "landscape", "ucf101", "taichi", "bair",
    "cater_gen", "natops", "mug", "davis", "csv", "tfds", "array_record",
  ),
  "data.world": ("sky", "cater", "pushing"),
  "data.world_mode": (
    "drift", "two_layer", "dusk", "v1", "v2", "textured", "unique_colors", "push",
  ),
  "data.camera": ("aux1", "main"),
  "data.captions": ("explicit", "ambiguous", "appearance"),
  "data.depth": ("none", "world", "files", "estimated"),
  "data.tokenizer": ("none", "words", "clip"),
  "data.resize": ("crop_antialias", "crop", "squash", "letterbox", "natops"),
  "data.sampling": (
    "random", "tile", "first", "linspace", "jittered", "very_random", "mage10",
  ),
  "model.first_stage": ("video", "image"),
  "model.text.encoder": ("none", "small", "clip"),
  "model.discriminator.kind": ("frame", "video"),
  "model.discriminator.norm": ("batch", "group"),
  "model.motion.autoencoder.fusion": ("concat", "spade"),
  "model.motion.normalization": ("none", "batch", "layer", "l2"),
  "model.motion.content_cond": ("concat", "crossattn", "both"),
  "model.content.encoder": ("small", "clip"),
  "model.content.network": ("l14", "b32"),
  "model.prior.kind": ("mean_shift", "regressor", "diffusion"),
  "loss.reconstruction": ("l1", "mse"),
  "loss.gan": ("hinge", "vanilla"),
  "loss.kl_reduction": ("mean", "clip", "sum"),
  "loss.beta_mode": ("fixed", "pid"),
  "diffusion.schedule": ("linear", "scaled_linear", "cosine"),
  "diffusion.prediction": ("eps", "x0", "v", "flow"),
  "diffusion.loss": ("l1", "l2"),
  "optim.*.optimizer": ("adamw", "muon"),
  "optim.*.schedule": ("constant", "cosine"),
  "train.compute": ("auto", "float32", "bfloat16"),
  "train.remat": ("none", "full", "names"),
  "train.checkpoint_verify": ("full", "size", "off"),
  "distill.loss": ("pseudo_huber", "l2"),
  "sampler": (
    "ddpm", "ddim", "dpmpp_2m", "unipc", "heun", "euler", "consistency",
  ),
  "spacing": ("trailing", "uniform", "log_snr", "ddim_release"),
  "weights": ("ema", "raw"),
  "long": ("none", "autoregressive", "hierarchical", "sliding"),
  "null": ("released", "unconditional"),
  "start": ("noise", "input", "inverted"),
  "task": ("generation", "reconstruction", "long"),
}  # fmt: skip

# Leaves that hold a number, or a tuple of numbers: smallest and largest value.
LIMITS: dict[str, tuple[float, float]] = {
  "seed": (0, 2**31 - 1),
  "data.num_videos": (1, 10**8),
  "data.frames": (1, 4096),
  "data.size": (8, 4096),
  "data.stride": (1, 10_000),
  "data.color_jitter": (0, 1),
  "data.max_bad_fraction": (0, 1),
  "data.fps": (0.1, 1000),
  "data.tokens": (2, 4096),
  "data.vocabulary_size": (4, 10**7),
  "data.num_threads": (0, 1024),
  "data.num_workers": (0, 1024),
  "data.prefetch": (1, 1024),
  "model.autoencoder.channels": (1, 8192),
  "model.autoencoder.downsample": (1, 64),
  "model.autoencoder.latent_channels": (1, 1024),
  "model.autoencoder.groups": (1, 1024),
  "model.autoencoder_frames": (0, 4096),
  "model.image_autoencoder.channels": (1, 8192),
  "model.image_autoencoder.channel_mult": (1, 64),
  "model.image_autoencoder.res_blocks": (1, 32),
  "model.image_autoencoder.latent_channels": (1, 1024),
  "model.image_autoencoder.groups": (1, 1024),
  "model.latent_scale": (1e-6, 1e6),
  "model.latent_shift": (-1e6, 1e6),
  "model.text.width": (1, 65_536),
  "model.text.layers": (1, 256),
  "model.text.heads": (1, 256),
  "model.text.dropout": (0, 1),
  "model.denoiser.channels": (4, 16_384),
  "model.denoiser.channel_mult": (1, 64),
  "model.denoiser.res_blocks": (1, 32),
  "model.denoiser.attention_downsample": (1, 64),
  "model.denoiser.heads": (1, 256),
  "model.denoiser.temporal_kernel": (1, 9),
  "model.denoiser.temporal_length": (1, 4096),
  "model.denoiser.noise_level_classes": (0, 100_000),
  "model.denoiser.head_channels": (0, 1024),
  "model.denoiser.frame_positions": (1, 100_000),
  "model.content.width": (1, 65_536),
  "model.content.frames": (0, 4096),
  "model.content.image_channels": (1, 8192),
  "model.content.text_width": (1, 65_536),
  "model.content.text_layers": (1, 256),
  "model.content.text_heads": (1, 256),
  "model.content.tokens": (1, 4096),
  "model.content.context_width": (1, 65_536),
  "model.content.dropout": (0, 1),
  "model.content.momentum": (1e-6, 1),
  "model.structure.levels": (1, 16),
  "model.prior.width": (1, 65_536),
  "model.prior.layers": (1, 256),
  "model.prior.heads": (1, 256),
  "model.prior.levels": (2, 100_000),
  "model.prior.drop": (0, 1),
  "model.prior.steps": (1, 100_000),
  "model.prior.guidance": (0, 1000),
  "model.motion.autoencoder.latent_channels": (1, 1024),
  "model.motion.autoencoder.patch": (1, 16),
  "model.motion.autoencoder.content_channels": (1, 8192),
  "model.motion.autoencoder.content_mult": (1, 64),
  "model.motion.autoencoder.content_blocks": (1, 32),
  "model.motion.autoencoder.content_groups": (1, 1024),
  "model.motion.autoencoder.encoder_widths": (1, 8192),
  "model.motion.autoencoder.decoder_widths": (1, 8192),
  "model.motion.autoencoder.decoder_blocks": (1, 32),
  "model.motion.autoencoder.groups": (1, 1024),
  "model.motion.momentum": (1e-6, 1),
  "model.motion.concat_channels": (1, 8192),
  "model.motion.content_pool": (1, 64),
  "model.motion.context_width": (1, 65_536),
  "model.motion.num_classes": (0, 10**6),
  "model.discriminator.channels": (1, 8192),
  "model.discriminator.layers": (1, 8),
  "loss.perceptual_weight": (0, 1e6),
  "loss.kl_weight": (0, 1e6),
  "loss.gan_weight": (0, 1e6),
  "loss.gan_start": (0, 2**31 - 1),
  "loss.kl_target": (1e-3, 1e9),
  "loss.perceptual_frames": (0, 4096),
  "diffusion.beta_start": (1e-8, 0.999),
  "diffusion.beta_end": (1e-8, 0.999),
  "diffusion.steps": (2, 100_000),
  "diffusion.min_snr_gamma": (0, 1e6),
  "diffusion.guidance": (0.01, 1000),
  "joint.image_share": (0, 1),
  "distill.skip": (1, 100_000),
  "distill.guidance": (0, 1000),
  "*.latents": (2, 4096),
  "*.sparse": (1, 4096),
  "*.known": (1, 4095),
  "*.p_prediction": (0, 1),
  "*.p_interpolation": (0, 1),
  "*.noise_levels": (1, 100_000),
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
  "train.profile_steps": (0, 1000),
  "train.preview_every": (0, 10**9),
  "train.preview_clips": (1, 1024),
  "train.preview_steps": (1, 10_000),
  "train.max_nonfinite": (1, 10**6),
  # --sample.* and --eval.*
  "n": (1, 10**7),
  "batch": (1, 10**5),
  "frames": (0, 10**6),
  "steps": (1, 100_000),
  "edit_steps": (1, 100_000),
  "eta": (0, 1),
  "guidance": (0, 1000),
  "noise_level": (0, 100_000),
  "structure_level": (0, 16),
  "temporal_guidance": (0, 100),
  "strength": (0.001, 1),
  "shared": (0, 4096),
  "overlap": (0, 4096),
  "lora_weight": (-100, 100),
  "label": (-1, 10**6),
  "strip": (0, 100),
  "decode_chunk": (1, 10**5),
  "fps": (0, 1000),
  "clips": (8, 10**7),
  "bootstrap": (10, 10**6),
}

# All other leaves: those that hold any text, and those that code elsewhere checks. A
# test asks that each leaf but the booleans is in one of the four.
FREE_TEXT = (
  "name", "data.root", "data.name", "data.split", "data.eval_split",
  "data.vocabulary", "model.perceptual.weights", "model.text.weights",
  "model.autoencoder_weights", "out", "text",
  "protocol", "changes", "vocabulary", "weights_i3d", "weights_c3d", "weights_lpips",
  "weights_clip_image", "weights_clip_text",
  "image", "motion_from", "video", "depth", "mask", "data.depth_root", "model.denoiser_weights",
  "model.content.image_weights", "model.content.text_weights",
  "model.structure.depth_weights", "lora",
)  # fmt: skip
CHECKED_ELSEWHERE = ("stages", "formats", "train.mesh", "topology", "programs")


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Yields (dotted key, value) of every leaf."""
  for key, value in tree.items():
    if isinstance(value, Mapping | ConfigDict):
      yield from leaves(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", value


def pattern(key: str) -> str:
  """optim.<stage>.steps is checked as optim.*.steps, prediction.known as *.known."""
  parts = key.split(".")
  if parts[0] in ("prediction", "interpolation"):
    return ".".join(["*", *parts[1:]])
  return ".".join(["optim", "*", *parts[2:]]) if parts[0] == "optim" else key


def check_leaf(flag: str, key: str, value: Any) -> None:
  name = pattern(key)
  if name in CHOICES:
    if value not in CHOICES[name]:
      known = ", ".join(CHOICES[name])
      raise ConfigError(f"--{flag}.{key}={value}: not known; choose one of {known}")
  elif name in LIMITS:
    low, high = LIMITS[name]
    for number in value if isinstance(value, tuple) else (value,):
      finite = isinstance(number, int | float) and math.isfinite(number)
      if not finite or not low <= number <= high:
        raise ConfigError(
          f"--{flag}.{key}={value}: must lie between {low:.12g} and {high:.12g}"
        )
