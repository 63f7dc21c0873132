# SPDX-License-Identifier: Apache-2.0
"""Checks of `--sample.*` against the run they are asked of."""

from __future__ import annotations

from ml_collections import ConfigDict

from lamd_jax import limits
from lamd_jax import validation
from lamd_jax.errors import ConfigError

FORMATS = ("mp4", "gif", "png", "npz")
USUAL = ("usual",)  # the formats where none is named
DISTILLED = "consistency"  # the sampler of what the stage distill makes


def formats(sample: ConfigDict, usual: tuple[str, ...]) -> tuple[str, ...]:
  """Returns the formats that are asked for; `usual` where none is."""
  return usual if tuple(sample.formats) == USUAL else tuple(sample.formats)


def time_factor(config: ConfigDict) -> int:
  """Returns how many frames a latent stands for."""
  if config.system == "lamd":
    return config.data.frames
  return validation.factors(config)[0]


def dense_stage(config: ConfigDict) -> str:
  """Returns the conditional stage of consecutive frames, "" if none is trained."""
  for name in ("prediction", "interpolation"):
    if name in config.stages and config[name].sparse == 1:
      return name
  return ""


def stages_of(sample: ConfigDict, config: ConfigDict) -> tuple[str, ...]:
  """Returns the stages whose weights `--sample.*` asks for.

  Raises:
    ConfigError: the run's config trains no such stage.
  """
  distilled = ("distill",) if sample.sampler == DISTILLED else ()
  if config.system == "lamd":
    return (*_motion_stages(sample, config), *distilled)
  if config.system == "gen1":
    return (*_edit_stages(sample, config), *distilled)
  dense = dense_stage(config)
  needed = {
    "none": ("diffusion",) if "diffusion" in config.stages else (dense,),
    "sliding": ("diffusion",),
    "autoregressive": (dense,),
    "hierarchical": ("prediction", "interpolation"),
  }[sample.long]
  missing = [name for name in needed if name not in config.stages]
  if missing:
    what = missing[0] or "conditional stage of consecutive frames"
    raise ConfigError(
      f"--sample.long={sample.long}: this run trains no {what}, its stages are"
      f" {', '.join(config.stages)}; see configs/lvdm_sky_long.py"
    )
  return ("autoencoder", *needed, *distilled)


def _motion_stages(sample: ConfigDict, config: ConfigDict) -> tuple[str, ...]:
  if sample.motion_from:
    return ("motion_autoencoder",)
  if "motion_diffusion" not in config.stages:
    raise ConfigError(
      "this run trains no motion_diffusion, so it can only take a motion over: name a"
      " video, --sample.motion_from=FILE"
    )
  return ("motion_autoencoder", "motion_diffusion")


def _edit_stages(sample: ConfigDict, config: ConfigDict) -> tuple[str, ...]:
  stages = [name for name in validation.DIFFUSERS if name in config.stages]
  if not stages:
    raise ConfigError(f"this run trains none of {', '.join(validation.DIFFUSERS)}")
  if not sample.text:
    return ("autoencoder", stages[-1])
  if "prior" not in config.stages:
    raise ConfigError(
      f"--sample.text={sample.text}: this run trains no prior, which makes content of"
      " words; say what it shall look like with --sample.image=FILE"
    )
  return ("autoencoder", stages[-1], "prior")


def check_sample(sample: ConfigDict, config: ConfigDict) -> None:
  """Raises ConfigError if `--sample.*` does not fit the run's config."""
  for key, value in limits.leaves(sample):
    limits.check_leaf("sample", key, value)
  if set(asked := formats(sample, FORMATS)) - set(FORMATS) or not asked:
    raise ConfigError(
      f"--sample.formats={sample.formats}: choose from {', '.join(FORMATS)}"
    )
  check_steps("sample", sample, config)
  check_distilled("sample", sample, config)
  if config.system == "gen1":
    _check_edit(sample, config)
    return
  for key, off in _EDIT.items():
    if sample[key] != off:
      raise ConfigError(
        f"--sample.{key}={sample[key]}: is for systems that edit videos, such as gen1;"
        f" this run is one of {config.system}"
      )
  if config.model.text.encoder == "none" and sample.text:
    raise ConfigError(
      f"--sample.text={sample.text}: this run's model takes no text"
      " (model.text.encoder=none)"
    )
  if config.system == "lamd":
    _check_animation(sample, config)
    return
  for key, off in _ANIMATION.items():
    if sample[key] != off:
      raise ConfigError(
        f"--sample.{key}={sample[key]}: is for systems that let an image move, such as"
        f" lamd; this run is one of {config.system}"
      )
  if sample.long == "none":
    _check_short(sample, config)
  else:
    _check_long(sample, config)


# What only makes sense where a video is edited, and the value that means off.
_EDIT = {
  "video": "", "structure_level": 0, "temporal_guidance": 1.0, "depth": "", "mask": "",
  "start": "noise", "strength": 1.0, "shared": 2,
}  # fmt: skip
INSTANCE = "instance:"  # a mask of held-out clips: this, and an object's number


def _check_edit(sample: ConfigDict, config: ConfigDict) -> None:
  if sample.text and sample.image:
    raise ConfigError(
      f"--sample.text={sample.text}: and --sample.image={sample.image} both say what it"
      " shall look like; take one of them out"
    )
  check_structure_level("sample", sample, config)
  if sample.temporal_guidance != 1 and edit_stage(config) == "image":
    raise ConfigError(
      f"--sample.temporal_guidance={sample.temporal_guidance}: this run trains no video"
      " model; leave it at 1"
    )
  for key in ("long", "label", "motion_from", "strip", "replace_first_frame"):
    off = "none" if key == "long" else _ANIMATION[key]
    if sample[key] != off:
      raise ConfigError(f"--sample.{key}={sample[key]}: not for gen1; leave it at {off!r}")
  if sample.strength != 1 and sample.start == "noise":
    raise ConfigError(
      f"--sample.strength={sample.strength}: a chain from noise has none; add"
      " --sample.start=input or inverted"
    )
  if sample.video:
    _check_user_video(sample, config)
  else:
    _check_held_out(sample, config)


def _check_held_out(sample: ConfigDict, config: ConfigDict) -> None:
  if sample.frames not in (0, config.data.frames):
    raise ConfigError(
      f"--sample.frames={sample.frames}: clips of held-out structure have"
      f" {config.data.frames} frames; leave it at 0"
    )
  if sample.depth:
    raise ConfigError(
      f"--sample.depth={sample.depth}: held-out clips have their own; name a"
      " --sample.video, or take it out"
    )
  if not sample.mask:
    return
  if not sample.mask.removeprefix(INSTANCE).isdecimal():
    raise ConfigError(
      f"--sample.mask={sample.mask}: for held-out clips say {INSTANCE}K, K=0 is the"
      " background and K=1 the first object; a file goes with --sample.video"
    )
  if config.data.source != "procedural":
    raise ConfigError(
      f"--sample.mask={sample.mask}: data.source={config.data.source} knows no objects;"
      " give a --sample.video and a file"
    )


def _check_user_video(sample: ConfigDict, config: ConfigDict) -> None:
  longest = config.model.denoiser.frame_positions
  window = sample.frames or config.data.frames
  structured = edit_stage(config) in validation.STRUCTURED
  if not (sample.text or sample.image):
    raise ConfigError(
      f"--sample.video={sample.video}: say what it shall look like, with"
      " --sample.text=WORDS or --sample.image=FILE"
    )
  if window > longest:
    raise ConfigError(
      f"--sample.frames={sample.frames}: a window of this model has at most {longest}"
      " (model.denoiser.frame_positions); longer videos are edited window by window"
    )
  if sample.shared >= window:
    raise ConfigError(
      f"--sample.shared={sample.shared}: windows have {window} frames; share at most"
      f" {window - 1}"
    )
  if sample.fps:
    raise ConfigError(
      f"--sample.fps={sample.fps}: an edited video keeps its times; leave it at 0"
    )
  if sample.mask.startswith(INSTANCE):
    raise ConfigError(
      f"--sample.mask={sample.mask}: is for held-out clips of a procedural world; give"
      " a mask video or a picture"
    )
  if sample.depth and not structured:
    raise ConfigError(
      f"--sample.depth={sample.depth}: this run trains no structure; take it out"
    )
  if structured and not (sample.depth or config.data.depth == "estimated"):
    raise ConfigError(
      f"--sample.video={sample.video}: its depth is missing; give"
      " --sample.depth=FILE, a grey video with a frame to each of its frames or"
      " DPT-Large's weights (tools.convert depth), or take a run that was trained with"
      " data.depth=estimated"
    )
  if not structured and sample.start == "noise" and not sample.mask:
    raise ConfigError(
      f"--sample.video={sample.video}: this run trains no structure, so nothing of the"
      " video would be kept; add --sample.start=input, or a mask"
    )


def edit_stage(config: ConfigDict) -> str:
  """Returns the stage that a run of gen1 draws its clips from; "" if it has none."""
  return ["", *(name for name in validation.DIFFUSERS if name in config.stages)][-1]


def check_structure_level(flag: str, group: ConfigDict, config: ConfigDict) -> None:
  """Raises ConfigError where a run was not trained at this level of its structure."""
  trained = {"structure": 0, "structure_levels": config.model.structure.levels}
  highest = trained.get(edit_stage(config), 0)
  if group.structure_level > highest:
    raise ConfigError(
      f"--{flag}.structure_level={group.structure_level}: this run was trained with"
      f" levels up to {highest}"
    )


# What only makes sense where an image is made to move, and the value that means off.
_ANIMATION = {
  "image": "", "motion_from": "", "label": -1, "replace_first_frame": False, "strip": 0,
}  # fmt: skip


def _check_animation(sample: ConfigDict, config: ConfigDict) -> None:
  classes = config.model.motion.num_classes
  if sample.long != "none":
    raise ConfigError(
      f"--sample.long={sample.long}: this system makes clips of {config.data.frames}"
      " frames; long videos are made by lvdm"
    )
  if sample.frames not in (0, config.data.frames):
    raise ConfigError(
      f"--sample.frames={sample.frames}: this run's decoder makes"
      f" {config.data.frames} frames; leave it at 0"
    )
  if sample.label >= classes:  # -1, for none, never is
    known = f"0 to {classes - 1}" if classes else "none: model.motion.num_classes=0"
    raise ConfigError(f"--sample.label={sample.label}: classes of this run are {known}")
  if sample.guidance not in (0, 1) and config.model.text.encoder == "none" and not classes:
    raise ConfigError(
      f"--sample.guidance={sample.guidance}: this run's model has neither text nor"
      " class to be guided by; leave it at 1"
    )
  if sample.motion_from and (sample.text or sample.label != -1 or sample.strip):
    raise ConfigError(
      f"--sample.motion_from={sample.motion_from}: the motion is that clip's; leave"
      " text, label and strip out"
    )
  if sample.strip == 1 or sample.strip > sample.steps + 1:
    raise ConfigError(
      f"--sample.strip={sample.strip}: a chain of --sample.steps={sample.steps} has"
      f" states 2 to {sample.steps + 1}"
    )


# What only makes sense in a video of any length, and the value that means off.
_LONG = {"noise_level": 0, "null": "released", "overlap": 1}


def _check_short(sample: ConfigDict, config: ConfigDict) -> None:
  for key, off in _LONG.items():
    if sample[key] != off:
      raise ConfigError(
        f"--sample.{key}={sample[key]}: is for long videos; add --sample.long=HOW or"
        " take it out"
      )
  if sample.guidance not in (0, 1) and config.model.text.encoder == "none":
    raise ConfigError(
      f"--sample.guidance={sample.guidance}: this run's model has no condition to be"
      " guided by; leave it at 1"
    )
  factor = time_factor(config)
  if sample.frames % factor:
    raise ConfigError(
      f"--sample.frames={sample.frames}: not divisible by the autoencoder's time"
      f" factor {factor}; only --sample.long makes any number of frames"
    )
  dense = dense_stage(config)
  if "diffusion" not in config.stages and dense:
    longest = config[dense].latents * factor
    if sample.frames > longest:
      raise ConfigError(
        f"--sample.frames={sample.frames}: without the stage diffusion {dense} makes"
        f" {longest} frames at most; longer ones take --sample.long"
      )


def _check_long(sample: ConfigDict, config: ConfigDict) -> None:
  how = sample.long
  stages = [s for s in stages_of(sample, config) if s in ("prediction", "interpolation")]
  if how == "sliding" and sample.guidance not in (0, 1):
    raise ConfigError(
      f"--sample.guidance={sample.guidance}: --sample.long=sliding has no condition to"
      " be guided by; leave it at 1"
    )
  if how == "sliding" and config.model.text.encoder != "none":
    raise ConfigError("--sample.long=sliding: takes models without text only")
  for name in stages:
    if sample.noise_level >= config[name].noise_levels:
      raise ConfigError(
        f"--sample.noise_level={sample.noise_level}: the stage {name} was trained with"
        f" levels below {config[name].noise_levels}"
      )
  first = stages[0] if stages else ""
  if first and not config[first].p_prediction:
    raise ConfigError(
      f"--sample.long={how}: {first}.p_prediction=0, so this run's {first} was never"
      " trained to go on from known frames"
    )
  if how == "hierarchical":
    gap, between = config.prediction.sparse, config.interpolation.latents - 1
    if gap != between or not config.interpolation.p_interpolation:
      raise ConfigError(
        f"--sample.long=hierarchical: prediction.sparse={gap} must be"
        f" interpolation.latents - 1 = {between}, and interpolation.p_interpolation"
        " above 0"
      )
  clips = [config[s].latents - config[s].known for s in stages]
  shortest = min(clips, default=config.data.frames // time_factor(config))
  if sample.overlap and sample.overlap >= shortest:
    raise ConfigError(
      f"--sample.overlap={sample.overlap}: a unit of this run yields as few as"
      f" {shortest} latents; take less"
    )


def check_steps(flag: str, group: ConfigDict, config: ConfigDict) -> None:
  """Raises ConfigError if a chain has more steps than the run has levels."""
  if group.steps > config.diffusion.steps:
    raise ConfigError(
      f"--{flag}.steps={group.steps}: more than the diffusion.steps="
      f"{config.diffusion.steps} of the run"
    )


def check_distilled(flag: str, group: ConfigDict, config: ConfigDict) -> None:
  """Raises ConfigError if the distilled network is asked for what it does not know."""
  if group.sampler != DISTILLED:
    return
  where = f"--{flag}.sampler={DISTILLED}"
  if "distill" not in config.stages:
    raise ConfigError(
      f"{where}: this run has no distilled network; train one with"
      f" --config.stages={','.join(config.stages)},distill"
    )
  for key in ("guidance", "temporal_guidance"):
    if group[key] not in (0, 1):
      raise ConfigError(
        f"--{flag}.{key}={group[key]}: the distilled network has the guidance that it"
        " was trained with (config.distill.guidance); leave it at 1"
      )
  if group.long != "none" and (flag == "sample" or group.task == "long"):
    raise ConfigError(
      f"{where}: long videos are made by stages that are not distilled; take another"
    )
