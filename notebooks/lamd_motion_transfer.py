# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Let an image move: LaMD
#
# LaMD ([arXiv 2304.11603](https://arxiv.org/abs/2304.11603)) splits a clip into an
# image and one small map of its motion. So an image can take over the motion of
# another clip, or move as a sentence says. Nothing is downloaded: the clips are a
# small captioned world, a cone and a golden sphere on a table. `quickstart.ipynb`
# explains what is not explained here.

# %%
# SPDX-License-Identifier: Apache-2.0
# The package at a fixed version; inside a checkout of it nothing is installed.
import os
import pathlib
import shutil
import subprocess
import sys

ADDRESS = "https://github.com/OWNER/lamd_jax"  # OWNER: not public yet, put yours in
TAG = "v0.1.0"


def is_checkout(folder):
  return (folder / "setup.py").is_file() and (folder / "lamd_jax" / "main.py").is_file()


def python(*arguments, **environment):
  """Runs `python ...` as a terminal would, shows what it says, stops if it fails."""
  print("$ python", *arguments, flush=True)
  with subprocess.Popen(
    [sys.executable, *map(str, arguments)], stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment},
  ) as process:
    for line in process.stdout:
      print(line, end="", flush=True)
  if process.returncode:
    raise RuntimeError(f"exit code {process.returncode}: see the lines above")


here = pathlib.Path.cwd()
folders = (here, *here.parents, here / "lamd_jax")
checkout = next(filter(is_checkout, folders), None)
if checkout is not None:
  print("inside a checkout: nothing is installed; what is missing comes with"
        " pip install -e .")  # fmt: skip
elif "OWNER" in ADDRESS:
  raise RuntimeError("ADDRESS names no owner yet: put it in, or start in a checkout")
else:
  checkout = here / "lamd_jax"
  subprocess.run(
    ["git", "clone", "--quiet", "--depth=1", f"--branch={TAG}", ADDRESS, checkout],
    check=True,
  )
  has_tpu = any(map(os.path.exists, ("/dev/accel0", "/dev/vfio/0")))
  extra = "[cuda]" if shutil.which("nvidia-smi") else "[tpu]" if has_tpu else ""
  python("-m", "pip", "install", "--quiet", "-e", f"{checkout}{extra}")
os.chdir(checkout)  # where configs/ lies
sys.path.insert(0, str(checkout))  # a running Python does not see new installs
if shutil.which("nvidia-smi"):  # this notebook and a command share the GPU
  os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", ".45")
# Asked in a process of its own: a TPU belongs to the first process that takes it.
python("-c", "import jax; print('devices:', jax.devices())")

# %% [markdown]
# ## Settings
#
# `configs/lamd_cater_gen_v1.py:demo`, 16 frames of 64x64, has 450 and 560 steps.
# Below are fewer: the notebook took 7 minutes on two CPU cores. **Expect little of so
# short a training**: the image is kept, the motion is in part. `docs/results.md` has
# what those, and 700 and 900, gave.

# %%
CONFIG = "configs/lamd_cater_gen_v1.py:demo"
FLAGS = """
  --config.optim.motion_autoencoder.steps=200 --config.optim.motion_diffusion.steps=150
  --config.data.num_videos=1024 --config.train.report=false
""".split()
SAMPLE = dict(steps=10)

# %%
import tempfile

# LAMD_NOTEBOOK_FAST=1 in the environment tries the code out: tiny networks, a few
# steps, clips of noise, nothing kept. Leave it unset to see something.
FAST = os.environ.get("LAMD_NOTEBOOK_FAST") == "1"
RUNS = pathlib.Path(tempfile.mkdtemp()) if FAST else pathlib.Path("runs/notebooks")
if FAST:
  FLAGS = """
    --config.data.size=16 --config.data.frames=8 --config.data.num_videos=32
    --config.model.motion.autoencoder.latent_channels=2
    --config.model.motion.autoencoder.content_channels=4
    --config.model.motion.autoencoder.content_mult=1,1,2
    --config.model.motion.autoencoder.content_groups=4
    --config.model.motion.autoencoder.encoder_widths=4,4,4
    --config.model.motion.autoencoder.decoder_widths=4,4,4
    --config.model.motion.autoencoder.groups=4
    --config.model.motion.autoencoder.patch=1
    --config.model.motion.concat_channels=4
    --config.model.denoiser.channels=32 --config.model.denoiser.channel_mult=1,
    --config.model.denoiser.attention_downsample=1,
    --config.model.text.width=16 --config.model.text.layers=1
    --config.model.text.heads=2
    --config.optim.motion_autoencoder.steps=2 --config.optim.motion_autoencoder.warmup=0
    --config.optim.motion_autoencoder.optimizer=adamw
    --config.optim.motion_diffusion.steps=2 --config.optim.motion_diffusion.warmup=0
    --config.optim.motion_diffusion.optimizer=adamw
    --config.train.latent_samples=8 --config.train.preview_every=0
    --config.train.report=false
  """.split()
  SAMPLE = dict(steps=2)

RUN = RUNS / "motion_transfer"

# %% [markdown]
# ## Train
#
# Two stages: the motion autoencoder, then the diffusion model that makes motion maps
# for an image and a caption. Both compile first. After a break run the cell again.

# %%
python("-m", "lamd_jax.main", f"--config={CONFIG}", f"--workdir={RUN}", *FLAGS)

# %% [markdown]
# ## Two clips that nobody trained on
#
# The first gives its motion, the second its first frame.

# %%
import lamd_jax
from lamd_jax.data import pipeline

model = lamd_jax.load(RUN)
held_out = (model.config.data, "test", 4, 0)  # split, how many, seed
clips, captions = pipeline.clips(*held_out), pipeline.captions(*held_out)
first, second = (lamd_jax.Clip(clips[i], model.fps) for i in (3, 2))
print(captions[3], captions[2], sep="\n")
lamd_jax.tile([first, second]).show()

# %% [markdown]
# ## The motion of one, the image of the other
#
# Left the clip that gives its motion, in the middle the image's own clip, right the
# image with the other's motion. Nothing is drawn by chance here. Expect the image to
# stay as it is where nothing moves, and what moves to turn into a dark blur on its
# way: this small autoencoder does not carry the colour along.

# %%
image = second.frames[0]
moved = model.generate(image=image, motion_from=first)
lamd_jax.tile([first, second, moved], columns=3).show()

# %% [markdown]
# `motion_from` also takes the path of a video, and `image` that of a PNG or JPEG;
# both are fitted to the model's size, and a line says so. Here a file is written and
# read.

# %%
first.save(RUN / "donor.mp4")
model.generate(image=image, motion_from=RUN / "donor.mp4").show()

# %% [markdown]
# ## Motion from a sentence
#
# The same image, four draws. The caption's words are those of the world: *the cone*,
# *the snitch*; *is rotating*, *is sliding to (x, y)*, *is picked up and placed to (x,
# y)*. Expect the right object to leave its place more often than it meets the target.

# %%
clips = model.generate(
  image=image, text="the cone is sliding to (2, -1).", seed=[0, 1, 2, 3], **SAMPLE
)
lamd_jax.tile(clips).show()

# %% [markdown]
# ## The chain that made it
#
# Seven states of one chain, from noise to the clip, each decoded.

# %%
states = 3 if FAST else 7
strip = model.denoising_strip(
  image=image, text="the cone is rotating.", strip=states, **SAMPLE
)
rows = [lamd_jax.Clip(frames, model.fps) for frames in strip]
lamd_jax.tile(rows, columns=len(rows)).show()

# %% [markdown]
# ## On a GPU
#
# `configs/lamd_cater_gen_v1.py:gpu` is meant for one GPU; time and quality: not run.
# From a terminal:
#
#     python -m lamd_jax.main --workdir=RUN --mode=sample \
#       --sample.image=PATH --sample.motion_from=CLIP
