# SPDX-License-Identifier: Apache-2.0
"""Checks of a config before anything is compiled: do its values fit together?

`limits.py` says what each leaf may hold by itself. Every message names the key, the
value, the limit and the fix, in one line.
"""

from __future__ import annotations

import math
from typing import Any

from ml_collections import ConfigDict

from lamd_jax import limits
from lamd_jax import meshes
from lamd_jax.errors import ConfigError


def fail(key: str, value: Any, limit: str) -> None:
  raise ConfigError(f"--config.{key}={value}: {limit}")


# Sources whose clips say something else when they are mirrored.
_NEVER_FLIPPED = {
  "cater_gen": "captions hold coordinates",
  "natops": "left and right are different gestures",
}


def _check_color_jitter(data: ConfigDict) -> None:
  strengths = tuple(data.color_jitter)
  if len(strengths) != 4:
    fail("data.color_jitter", strengths,
         "needs four numbers: brightness, contrast, saturation, hue")  # fmt: skip
  if strengths[3] > 0.5:
    fail("data.color_jitter", strengths, "hue, the last, is at most 0.5, half a turn")
  named = data.source == "cater_gen" or (data.source, data.world) == (
    "procedural", "cater"
  )  # fmt: skip
  if named and strengths[3]:
    fail("data.color_jitter", strengths, "captions of cater name colours, which another"
         " hue would make wrong; set the last to 0")  # fmt: skip


def _check_world(config: ConfigDict) -> None:
  data = config.data
  if data.depth == "world" and data.source != "procedural":
    fail("data.depth", "world", f"data.source={data.source} is no procedural world")
  if data.captions == "appearance" and (data.source, data.world) != (
    "procedural", "cater"
  ):  # fmt: skip
    fail("data.captions", "appearance", "is of the procedural world cater alone")
  if data.depth == "files" and data.source in ("procedural", "tfds", "array_record"):
    fail("data.depth", "files",
         f"data.source={data.source} has no files that depth could lie beside")  # fmt: skip
  if data.depth == "files" and not data.depth_root:
    fail("data.depth", "files", "set data.depth_root to the folder that holds them")
  if data.flip and data.source in _NEVER_FLIPPED:
    fail("data.flip", True, f"{_NEVER_FLIPPED[data.source]}, which a flip would make"
         " wrong; set it to False")  # fmt: skip
  _check_color_jitter(data)
  if data.source != "procedural":
    return
  modes = {
    "sky": ("drift", "two_layer", "dusk"),
    "cater": ("v1", "v2", "textured", "unique_colors"),
    "pushing": ("push",),
  }[data.world]
  if data.world_mode not in modes:
    fail("data.world_mode", data.world_mode,
         f"data.world={data.world} has {', '.join(modes)}")  # fmt: skip
  if data.world == "cater" and data.flip:
    fail("data.flip", True, "captions of cater hold coordinates, which a flip would"
         " make wrong; set it to False")  # fmt: skip


# Gen-1's diffusion stages, each going on from the one before; the last ones know depth.
STRUCTURED = ("structure", "structure_levels")
DIFFUSERS = ("image", "video", *STRUCTURED)
_STAGES = {
  "lvdm": ("autoencoder", "diffusion", "prediction", "interpolation", "distill"),
  "lamd": ("motion_autoencoder", "motion_diffusion", "distill"),
  "gen1": ("autoencoder", "content", *DIFFUSERS, "prior", "distill"),
}
# The stages that the stage distill can learn from; the last of those that are trained.
_TEACHERS = {
  "lvdm": ("diffusion",),
  "lamd": ("motion_diffusion",),
  "gen1": DIFFUSERS,
}


def _check_lvdm(config: ConfigDict) -> None:
  autoencoder = config.model.autoencoder
  if len(autoencoder.downsample) != 3:
    fail("model.autoencoder.downsample", autoencoder.downsample,
         "needs three factors (t,h,w)")  # fmt: skip
  for name, factor in zip(("t", "h", "w"), autoencoder.downsample):
    if factor & (factor - 1):
      fail("model.autoencoder.downsample", autoencoder.downsample,
           f"the {name} factor {factor} is no power of two")  # fmt: skip
  if autoencoder.channels * 2 % autoencoder.groups:
    fail("model.autoencoder.groups", autoencoder.groups,
         f"must divide 2 x channels = {autoencoder.channels * 2}")  # fmt: skip
  _check_sizes(config)
  _check_denoiser(config)
  _check_text(config, config.model.denoiser.transformer)
  _check_imported(config)


def _check_lamd(config: ConfigDict) -> None:
  motion, data, denoiser = config.model.motion, config.data, config.model.denoiser
  sizes, key = motion.autoencoder, "model.motion.autoencoder"
  for name, groups in (("encoder_widths", "groups"), ("decoder_widths", "groups"),
                       ("content_mult", "content_groups")):  # fmt: skip
    unit = sizes.content_channels if name == "content_mult" else 1
    if len(sizes[name]) != len(sizes.encoder_widths):
      fail(f"{key}.{name}", sizes[name],
           f"needs one number a scale, as encoder_widths={sizes.encoder_widths}")  # fmt: skip
    for width in sizes[name]:
      if unit * width % sizes[groups]:
        fail(f"{key}.{groups}", sizes[groups], f"must divide the width {unit * width}")
  factor = sizes.patch * 2 ** (len(sizes.encoder_widths) - 1)
  total = factor * math.lcm(2 ** (len(denoiser.channel_mult) - 1), motion.content_pool)
  if data.size % total:
    fail("data.size", data.size,
         f"not divisible by {total} (motion map, denoiser levels and content_pool);"
         f" nearest: {max(1, round(data.size / total)) * total}")  # fmt: skip
  if data.frames < 2:
    fail("data.frames", data.frames, "a motion needs at least 2")
  if config.model.autoencoder_frames:
    fail("model.autoencoder_frames", config.model.autoencoder_frames,
         "lamd encodes whole clips; leave it at 0")  # fmt: skip
  _check_denoiser(config)
  # Its transformer has attention to a context wherever there is one.
  _check_text(config, config.model.text.encoder != "none")


def _check_gen1(config: ConfigDict) -> None:
  model, data, stages = config.model, config.data, config.stages
  if model.first_stage != "image":
    fail("model.first_stage", model.first_stage, "must be image: gen1 encodes frames")
  if set(STRUCTURED) & set(stages) and data.depth == "none":
    fail("data.depth", "none",
         "the stages of structure need it; choose world, files or estimated")  # fmt: skip
  if data.frames > model.denoiser.frame_positions:
    fail("data.frames", data.frames,
         f"more than model.denoiser.frame_positions={model.denoiser.frame_positions}")  # fmt: skip
  if model.content.encoder == "clip" and "content" in stages:
    fail("stages", stages, "content trains the small encoder; take it out, or set"
         " model.content.encoder=small")  # fmt: skip
  wanted = {"small": "words", "clip": "clip"}[model.content.encoder]
  reads_text = {"content", "prior"} & set(stages)
  if reads_text and data.tokenizer != wanted:
    fail("data.tokenizer", data.tokenizer,
         f"must be {wanted} with model.content.encoder={model.content.encoder}")  # fmt: skip
  if model.denoiser_weights and "image" not in stages:
    fail("model.denoiser_weights", model.denoiser_weights,
         "is what the stage image starts from, which is not among the stages")  # fmt: skip
  if model.text.encoder != "none":
    fail("model.text.encoder", model.text.encoder,
         "words reach gen1 through model.content; leave it at none")  # fmt: skip
  _check_content(config)
  if model.prior.kind == "diffusion":
    _check_prior(model.prior)
  _check_sizes(config)
  _check_denoiser(config)
  _check_imported(config)


def _check_content(config: ConfigDict) -> None:
  content = config.model.content
  if content.encoder != "small":
    return
  if content.image_channels % 8:
    fail("model.content.image_channels", content.image_channels,
         "must be a multiple of 8, the groups of its norms")  # fmt: skip
  if content.text_width % content.text_heads:
    fail("model.content.text_heads", content.text_heads,
         f"must divide model.content.text_width={content.text_width}")  # fmt: skip


def _check_prior(prior: ConfigDict) -> None:
  if prior.width % prior.heads:
    fail("model.prior.heads", prior.heads,
         f"must divide model.prior.width={prior.width}")  # fmt: skip
  if prior.width % 4:
    fail("model.prior.width", prior.width, "must be a multiple of 4")
  if prior.steps > prior.levels:
    fail("model.prior.steps", prior.steps,
         f"more than model.prior.levels={prior.levels}")  # fmt: skip


_MODELS = {"lvdm": _check_lvdm, "lamd": _check_lamd, "gen1": _check_gen1}


def factors(config: ConfigDict) -> tuple[int, int, int]:
  """Returns the factors (t,h,w) of the autoencoder of clips or of frames."""
  if config.model.first_stage == "image":
    factor = 2 ** (len(config.model.image_autoencoder.channel_mult) - 1)
    return 1, factor, factor
  return config.model.autoencoder.downsample


def _check_sizes(config: ConfigDict) -> None:
  data = config.data
  factor_t, factor_h, factor_w = factors(config)
  if data.frames % factor_t:
    fail("data.frames", data.frames,
         f"not divisible by the autoencoder's time factor {factor_t}; nearest:"
         f" {max(1, round(data.frames / factor_t)) * factor_t}")  # fmt: skip
  if config.model.autoencoder_frames % factor_t:
    fail("model.autoencoder_frames", config.model.autoencoder_frames,
         f"not divisible by the autoencoder's time factor {factor_t}")  # fmt: skip
  factor = math.lcm(factor_h, factor_w)
  depth = 2 ** (len(config.model.denoiser.channel_mult) - 1)
  total = factor * depth
  if data.size % total:
    fail("data.size", data.size,
         f"not divisible by {total} (autoencoder factor {factor} x denoiser factor"
         f" {depth}); nearest: {max(1, round(data.size / total)) * total}")  # fmt: skip


def _check_imported(config: ConfigDict) -> None:
  model = config.model
  if model.autoencoder_weights and model.first_stage != "image":
    fail("model.autoencoder_weights", model.autoencoder_weights,
         "is for model.first_stage=image; converted autoencoders of clips come as a"
         " run folder")  # fmt: skip
  if model.autoencoder_weights and "autoencoder" in config.stages:
    fail("model.autoencoder_weights", model.autoencoder_weights,
         "and the stage autoencoder: take one of them out")  # fmt: skip


def _check_text(config: ConfigDict, attends: bool) -> None:
  text, data = config.model.text, config.data
  wanted = {"none": "none", "small": "words", "clip": "clip"}[text.encoder]
  if data.tokenizer != wanted:
    fail("data.tokenizer", data.tokenizer,
         f"must be {wanted} with model.text.encoder={text.encoder}")  # fmt: skip
  if text.encoder == "none":
    if attends:
      fail("model.denoiser.transformer", True,
          "attends to text; choose a model.text.encoder")  # fmt: skip
    return
  if not attends:
    fail("model.denoiser.transformer", False,
         f"must be True with model.text.encoder={text.encoder}")  # fmt: skip
  if text.width % text.heads:
    fail("model.text.heads", text.heads, f"must divide model.text.width={text.width}")


def _check_conditional(config: ConfigDict, name: str) -> None:
  stage = config[name]
  if config.model.text.encoder != "none":
    fail("stages", config.stages, f"{name} takes no text; set model.text.encoder=none")
  if stage.known >= stage.latents:
    fail(f"{name}.known", stage.known,
         f"must be below {name}.latents={stage.latents}")  # fmt: skip
  if stage.p_prediction + stage.p_interpolation > 1:
    fail(f"{name}.p_interpolation", stage.p_interpolation,
         f"and {name}.p_prediction={stage.p_prediction} add up to more than 1")  # fmt: skip
  if stage.noise_levels > config.diffusion.steps:
    fail(f"{name}.noise_levels", stage.noise_levels,
         f"more than diffusion.steps={config.diffusion.steps}")  # fmt: skip


def _check_denoiser(config: ConfigDict) -> None:
  denoiser = config.model.denoiser
  if denoiser.channels % 32:
    fail("model.denoiser.channels", denoiser.channels,
         "must be a multiple of 32, the groups of its norms")  # fmt: skip
  lvdm = config.system == "lvdm"
  if lvdm and denoiser.head_channels:
    fail("model.denoiser.head_channels", denoiser.head_channels,
         "lvdm has as many heads at every width; set model.denoiser.heads")  # fmt: skip
  if not lvdm and denoiser.temporal_kernel != 1:
    fail("model.denoiser.temporal_kernel", denoiser.temporal_kernel,
         f"is of lvdm; leave it at 1 in {config.system}")  # fmt: skip
  for mult in denoiser.channel_mult:
    key = "head_channels" if denoiser.head_channels else "heads"
    if denoiser.channels * mult % denoiser[key]:
      fail(f"model.denoiser.{key}", denoiser[key],
           f"must divide every width, {denoiser.channels} x {mult}")  # fmt: skip
  deepest = 2 ** (len(denoiser.channel_mult) - 1)
  for factor in denoiser.attention_downsample:
    if factor > deepest or factor & (factor - 1):
      fail("model.denoiser.attention_downsample", denoiser.attention_downsample,
           f"{factor} is no level; levels are 1, 2, ..., {deepest}")  # fmt: skip
  if denoiser.temporal_kernel % 2 == 0:
    fail("model.denoiser.temporal_kernel", denoiser.temporal_kernel, "must be odd")


def _told(config: ConfigDict) -> bool:
  """Whether there is something that guidance could leave out."""
  classes = config.system == "lamd" and config.model.motion.num_classes
  return config.system == "gen1" or config.model.text.encoder != "none" or bool(classes)


def _check_discriminator(config: ConfigDict) -> None:
  critic = config.model.discriminator
  widths = [critic.channels * min(2**i, 8) for i in range(1, critic.layers + 1)]
  if critic.norm == "group" and any(width % min(32, width) for width in widths):
    fail("model.discriminator.channels", critic.channels,
         f"its widths {widths} must be multiples of 32, the groups of its norms")  # fmt: skip


def _check_distill(config: ConfigDict) -> None:
  distill = config.distill
  teachers = _TEACHERS[config.system]
  if not set(teachers) & set(config.stages):
    fail("stages", config.stages,
         f"distill learns from {' or '.join(teachers)}, which is not among them")  # fmt: skip
  if distill.skip >= config.diffusion.steps:
    fail("distill.skip", distill.skip,
         f"must be below diffusion.steps={config.diffusion.steps}")  # fmt: skip
  if distill.guidance not in (0, 1) and not _told(config):
    fail("distill.guidance", distill.guidance,
         "this model has nothing to be guided by; leave it at 0")  # fmt: skip


def _check_optim(config: ConfigDict, devices: int) -> None:
  known = _STAGES[config.system]
  if not config.stages:
    fail("stages", config.stages, f"names no stage; choose from {', '.join(known)}")
  for stage in config.stages:
    if stage not in known:
      fail("stages", config.stages,
           f"{stage} is no stage; choose from {', '.join(known)}")  # fmt: skip
    if stage in ("prediction", "interpolation"):
      _check_conditional(config, stage)
    if stage == "distill":
      _check_distill(config)
    optim = config.optim[stage]
    if optim.batch % (optim.accumulate * devices):
      fail(f"optim.{stage}.batch", optim.batch,
           f"must be a multiple of accumulate x devices = {optim.accumulate} x"
           f" {devices}, the mesh {config.train.mesh}; nearest:"
           f" {-(-optim.batch // (optim.accumulate * devices)) * optim.accumulate * devices}")  # fmt: skip
    if config.data.source == "procedural" and optim.batch > config.data.num_videos:
      fail(f"optim.{stage}.batch", optim.batch,
           f"larger than the data, data.num_videos={config.data.num_videos}")  # fmt: skip
    if optim.warmup > optim.steps:
      fail(f"optim.{stage}.warmup", optim.warmup,
           f"longer than optim.{stage}.steps={optim.steps}")  # fmt: skip


def _check_frames(config: ConfigDict, devices: int) -> None:
  """A clip must be cut evenly in time, in pixels and in latents."""
  parts = meshes.sizes(config.train.mesh, devices)["frames"]
  time = 1 if config.system == "lamd" else factors(config)[0]
  if parts > 1 and config.data.frames % (parts * time):
    fail("data.frames", config.data.frames,
         f"not divisible by {parts} x {time}, the devices that share a clip under"
         f" train.mesh={config.train.mesh} x the frames of a latent; take fewer devices"
         " for frames")  # fmt: skip


def _check_diffusion(config: ConfigDict) -> None:
  diffusion = config.diffusion
  if diffusion.beta_start >= diffusion.beta_end:
    fail("diffusion.beta_start", diffusion.beta_start,
         f"must be below diffusion.beta_end={diffusion.beta_end}")  # fmt: skip
  if diffusion.zero_terminal_snr and diffusion.prediction == "eps":
    fail("diffusion.prediction", diffusion.prediction,
         "cannot be learnt with diffusion.zero_terminal_snr, where the last z holds no"
         " signal; use v")  # fmt: skip
  if diffusion.guidance not in (0, 1) and not _told(config):
    fail("diffusion.guidance", diffusion.guidance,
         "this model has nothing to be guided by; leave it at 1")  # fmt: skip
  if config.train.preview_steps > diffusion.steps:
    fail("train.preview_steps", config.train.preview_steps,
         f"more than diffusion.steps={diffusion.steps}")  # fmt: skip


def _check_attention(train: ConfigDict) -> None:
  if train.cudnn_attention and train.compute == "float32":
    fail("train.cudnn_attention", True, "cuDNN's attention computes in bfloat16, and"
         " train.compute=float32; change one")  # fmt: skip


def check_config(config: ConfigDict, devices: int) -> None:
  """Raises ConfigError if the config cannot be run on this number of devices."""
  for key, value in limits.leaves(config):
    limits.check_leaf("config", key, value)
  _check_world(config)
  _MODELS[config.system](config)
  _check_discriminator(config)
  _check_diffusion(config)
  _check_frames(config, devices)
  _check_attention(config.train)
  _check_optim(config, meshes.batch_parts(config.train.mesh, devices))
