# SPDX-License-Identifier: Apache-2.0
"""All defaults, in one place; those of `config.model` in `config_model.py`.

`configs/*.py` start from `defaults()` and change what their paper and data set ask
for; nothing else in the package supplies a value that a config leaves out. The trees
are locked, so an unknown key is an error that names its neighbour.
"""

from __future__ import annotations

from collections.abc import Iterable

from ml_collections import ConfigDict

from lamd_jax import config_model
from lamd_jax.errors import ConfigError


def _data() -> ConfigDict:
  return ConfigDict(
    dict(
      # procedural | folder | frames | landscape | ucf101 | taichi | bair | cater_gen |
      # natops | mug | davis | csv | tfds | array_record
      source="folder",
      root="",  # folder of the data set; unused by procedural
      name="",  # TFDS name
      choose=False,  # source, size, frames and stride from what root holds: own_data.py
      camera="aux1",  # aux1 | main, of bair
      # explicit | ambiguous, of cater_gen; appearance: what is there, of world cater
      captions="explicit",
      # none | world (a procedural one's own) | files | estimated (by a network)
      depth="none",
      depth_root="",  # folder of depth files that mirrors the videos'
      world="sky",  # procedural world
      world_mode="drift",
      label_actions=False,  # of cater v1: what moves how is the class, one of 16
      num_videos=4096,  # videos in a split of a procedural world
      split="train",
      eval_split="test",
      frames=16,  # T of a clip
      size=256,  # H = W of a clip, pixels
      stride=1,  # source frames from one clip frame to the next
      # crop_antialias | crop (no antialias) | squash (aspect ignored) | letterbox |
      # natops (a box, letterboxed)
      resize="crop_antialias",
      flip=False,
      # Of training clips, one draw a clip: brightness, contrast, saturation (factors in
      # 1 +- this) and hue (at most this much of a turn).
      color_jitter=(0.0, 0.0, 0.0, 0.0),
      # Where a clip starts: random | tile | first. Spread over the video, whatever the
      # stride: linspace | jittered | very_random | mage10.
      sampling="random",
      pad_last=False,  # repeat the last frame of videos that are too short
      max_bad_fraction=0.01,  # unreadable or too short videos before the run stops
      fps=8.0,  # display rate where the source stores none, frames a second
      tokenizer="none",  # none | words (hashed, needs no file) | clip
      tokens=77,  # length of a tokenised caption
      vocabulary_size=4096,  # ids of "words"
      vocabulary="",  # file of byte-pair merges, for "clip"
      # Each makes a batch of its own; decoding, resizing and unpacking let go of the
      # interpreter, so threads share cores as processes would. Four feed a device from
      # mp4 at the rates of benchmarks/RESULTS.md; raise it where metrics.jsonl shows
      # input_wait and cores are idle, at the price of one host batch of memory each.
      num_threads=4,
      num_workers=0,  # Grain worker processes, where one interpreter is too slow
      prefetch=2,  # host batches kept ready, at least one a thread; evens out slow files
    )
  )


def _loss() -> ConfigDict:
  """The autoencoder's loss."""
  return ConfigDict(
    dict(
      reconstruction="l1",  # l1 | mse
      perceptual_weight=1.0,
      kl_weight=0.0,
      gan_weight=0.5,
      gan_start=50_001,  # first step with the adversarial term
      gan="hinge",  # hinge | vanilla: the critic's own loss
      # Of LaMD's autoencoder alone:
      kl_reduction="mean",  # mean | clip | sum: see autoencoder_loss.kl_divisor
      beta_mode="fixed",  # fixed (kl_weight) | pid (holds the KL at kl_target)
      kl_target=50.0,  # nats a clip
      perceptual_frames=0,  # frames of a clip that LPIPS is computed of; 0: all
    )
  )


def _diffusion() -> ConfigDict:
  return ConfigDict(
    dict(
      schedule="scaled_linear",  # linear | scaled_linear | cosine
      beta_start=0.0015,
      beta_end=0.0155,
      steps=1000,
      zero_terminal_snr=False,
      prediction="eps",  # eps | x0 | v | flow
      loss="l1",  # l1 | l2
      min_snr_gamma=0.0,  # 0: unweighted
      guidance=1.0,  # classifier-free, of samples where nothing else is said; 1: off
    )
  )


def _conditional(**changes: float) -> ConfigDict:
  """A stage of long video: one network that predicts, interpolates and generates."""
  group = dict(
    latents=4,  # frames of a clip, in latents
    sparse=1,  # latents from one frame of the clip to the next
    known=1,  # frames that a prediction goes on from
    p_prediction=0.5,  # share of training clips; the rest are unconditional
    p_interpolation=0.0,  # likewise: the first and the last frame known
    noise_levels=250,  # known frames are noised to a level drawn below this one
  )
  return ConfigDict({**group, **changes})


def _distill() -> ConfigDict:
  """The stage that makes a sampler of few steps out of a trained diffusion stage."""
  return ConfigDict(
    dict(
      skip=20,  # levels of diffusion.steps that the teacher goes down at once
      guidance=0.0,  # classifier-free, that the student learns; 0: diffusion.guidance
      loss="pseudo_huber",  # pseudo_huber | l2
    )
  )


def _optim(**changes: float) -> ConfigDict:
  """One stage's optimisation."""
  group = dict(
    steps=100_000,
    batch=8,  # clips a step, over all devices and micro-batches
    accumulate=1,  # micro-batches a step
    optimizer="adamw",  # adamw | muon
    learning_rate=1e-4,
    schedule="constant",  # constant | cosine
    warmup=0,  # steps
    final_fraction=0.0,  # of the learning rate, where the cosine ends
    b1=0.9,
    b2=0.999,
    epsilon=1e-8,
    weight_decay=0.0,
    clip_norm=0.0,  # global norm of a group's gradient; 0: off
    ema_decay=0.0,  # 0: off
    ema_warmup=True,  # decay = min(ema_decay, (1+n)/(10+n))
  )
  return ConfigDict({**group, **changes})


def _train() -> ConfigDict:
  return ConfigDict(
    dict(
      # dp | fsdp | fsdp_tp | frames | one (the first device alone), or sizes of data,
      # fsdp, tensor and frames, as "data=2,fsdp=-1": see meshes.py
      mesh="dp",
      # float32 | bfloat16 | auto: bfloat16 on TPUs and on GPUs that have it, float32 on
      # others (a T4) and CPUs
      compute="auto",
      remat="none",  # of blocks of UNets and autoencoders: none | full | names
      # On NVIDIA's GPUs, in bfloat16: attention between pixels by cuDNN, see
      # lamd_jax/ops/attention_cudnn.py. Not run on a card so far.
      cudnn_attention=False,
      latent_cache=False,
      latent_windows=1,  # cached clips a video
      latent_samples=256,  # clips on which latent shift and scale are measured
      checkpoint_every=1000,  # steps
      checkpoint_keep=2,  # newest checkpoints kept
      checkpoint_keep_every=0,  # steps; 0: none kept beside the newest
      checkpoint_verify="full",  # full | size | off: manifest check on restore
      log_every=50,
      profile_steps=0,  # of each stage and start, after ten: a trace in STAGE/profile
      preview_every=1000,  # steps; 0: off
      preview_clips=4,
      preview_steps=20,  # sampler steps of a preview
      max_nonfinite=10,  # skipped steps in a row before the run stops
      tensorboard=True,
      wandb=False,  # Weights & Biases; offline unless WANDB_MODE=online is set
      report=True,  # after the last stage: evaluate and write the gallery
    )
  )


def defaults() -> ConfigDict:
  """Returns the full tree, unlocked, for a config file to change."""
  return ConfigDict(
    dict(
      system="lvdm",
      name="",  # of the config, e.g. lvdm_sky
      variant="paper",
      seed=0,
      stages=("autoencoder", "diffusion"),
      data=_data(),
      model=config_model.defaults(),
      loss=_loss(),
      diffusion=_diffusion(),
      # Keyframes that follow each other, and the frames between two of them.
      prediction=_conditional(sparse=4),
      interpolation=_conditional(latents=5, p_prediction=0.0, p_interpolation=0.9),
      # Gen-1 from its video stage on: share of steps that take frames as pictures.
      joint=ConfigDict(dict(image_share=0.125)),
      distill=_distill(),
      optim=dict(
        autoencoder=_optim(),
        diffusion=_optim(),
        prediction=_optim(),
        interpolation=_optim(),
        motion_autoencoder=_optim(),
        motion_diffusion=_optim(),
        content=_optim(),
        image=_optim(),
        video=_optim(),
        structure=_optim(),
        structure_levels=_optim(),
        prior=_optim(),
        distill=_optim(ema_decay=0.95),  # as latent consistency models have
      ),
      train=_train(),
    )
  )


# Of `--sample.*` and `--eval.*`, what is another default with a sampler.
_OF_SAMPLER = {"consistency": dict(steps=4, spacing="trailing")}


def sample_defaults(sampler: str = "") -> ConfigDict:
  """`--sample.*`, and the defaults of `generate()` in Python, with a sampler asked for."""
  group = ConfigDict(
    dict(
      n=4,  # clips
      batch=16,  # clips a device computes at once, at most
      frames=0,  # of a clip; 0: as trained
      # ddpm | ddim | dpmpp_2m | unipc | heun | euler; of runs with a stage distill:
      # consistency, whose defaults are steps=4 and spacing="trailing"
      sampler="dpmpp_2m",
      steps=20,
      spacing="log_snr",  # log_snr | trailing | uniform | ddim_release
      eta=0.0,  # DDIM's noise: 0 deterministic, 1 as DDPM
      guidance=0.0,  # classifier-free guidance; 1: off, 0: the run's diffusion.guidance
      text="",  # a prompt, or a .txt file with one a line
      # For systems that let an image move (LaMD):
      image="",  # a file; "": first frames of held-out clips of the run's data
      motion_from="",  # a video whose motion the image takes over; "": generated
      label=-1,  # class; -1: none
      # For systems that edit a video (Gen-1):
      video="",  # the file to edit; "": held-out clips of the run's data
      structure_level=0,  # t_s: rounds of blur that its depth goes through
      temporal_guidance=1.0,  # below 1 more frame by frame, above 1 smoother
      depth="",  # its depth: a grey video, near is white, or DPT-Large's weights
      mask="",  # a video or picture, white is edited; of held-out clips instance:K
      start="noise",  # noise | input (noised) | inverted (by DDIM)
      strength=1.0,  # where a chain from the input starts: 1 as from noise, near 0 clean
      shared=2,  # frames that neighbouring windows of a long video share
      # For LaMD once more:
      replace_first_frame=False,  # the image itself instead of its reconstruction
      strip=0,  # states of the chain in strip.png, from noise to the clip; 0: none
      # For LVDM's videos of any length:
      long="none",  # none | autoregressive | hierarchical | sliding
      noise_level=0,  # levels, of the known frames; why 0: docs/results.md
      null="released",  # what guidance subtracts: released | unconditional
      overlap=1,  # latents on both sides of a seam that decoding blends
      # For all:
      seed=0,
      weights="ema",  # ema | raw
      lora="",  # LoRA files laid over the weights, with commas between them
      lora_weight=(1.0,),  # of all of them, or of each
      decode_chunk=4,  # clips a device decodes at once: bounds peak memory
      formats=("usual",),  # mp4,gif,png,npz; usual: all for clips, mp4 for long videos
      fps=0.0,  # frames a second; 0: as the data
      out="",  # folder; default WORKDIR/samples/<sampler>-<steps>-seed<seed>[-<hash>]
    )
  )
  group.update(_OF_SAMPLER.get(sampler, {}))
  return group


def eval_defaults(sampler: str = "") -> ConfigDict:
  """`--eval.*`, with a sampler asked for."""
  group = ConfigDict(
    dict(
      clips=64,  # clips of each kind that are scored
      batch=16,  # clips a device computes at once, at most
      bootstrap=1000,  # resamples behind a 95 % interval
      sampler="dpmpp_2m",
      steps=20,
      edit_steps=5,  # of Gen-1's report, which makes ten sets of edits
      spacing="log_snr",
      eta=0.0,
      guidance=0.0,  # as sample.guidance
      temporal_guidance=1.0,
      structure_level=0,
      seed=0,
      weights="ema",
      # A named protocol (evaluation/protocol.py); "": simple features, no weights.
      protocol="",
      changes="",  # FIELD=VALUE,... of the protocol, which renames its scores
      task="generation",  # generation | reconstruction | long
      long="hierarchical",  # as sample.long, for the task long
      frames=0,  # of a long video
      # Files of tools.convert, where the protocol needs them:
      weights_i3d="",
      weights_c3d="",
      weights_lpips="",
      weights_clip_image="",
      weights_clip_text="",
      vocabulary="",  # CLIP's merges.txt
    )
  )
  group.update(_OF_SAMPLER.get(sampler, {}))
  return group


def compile_defaults() -> ConfigDict:
  """`--compile.*`, of --mode=compile."""
  return ConfigDict(
    dict(
      topology="v5e:4x4",  # GENERATION:SHAPE of a TPU slice, see ahead.GENERATIONS
      programs=("train", "sample"),
      fast=False,  # quicker; memory then reads otherwise than exact
    )
  )


def check_variant(variant: str, known: Iterable[str]) -> None:
  """Raises ConfigError if a config file has no such variant."""
  if variant not in known:
    raise ConfigError(
      f"--config=...:{variant}: no such variant; choose one of {', '.join(known)}"
    )
