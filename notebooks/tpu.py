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
# # TPUs, and many devices on a laptop
#
# The same command trains on one device or on many. This notebook looks at what is
# there: on a TPU runtime (Colab: *Runtime, Change runtime type, TPU*) it trains on
# it; on a CPU it shows the same sharded training on several virtual devices. **On a
# TPU: not run.** What was tested is the sharded program on virtual CPU devices.

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
# A few steps of the quickstart's autoencoder are enough to see losses agree; the
# notebook took 2 and a half minutes on two CPU cores.

# %%
CONFIG = "configs/lvdm_sky.py:demo"
FLAGS = """
  --config.stages=autoencoder --config.train.report=false
  --config.optim.autoencoder.batch=8
  --config.optim.autoencoder.steps=20 --config.train.log_every=1
  --config.train.preview_every=0
""".split()

# %%
import tempfile

# LAMD_NOTEBOOK_FAST=1 in the environment tries the code out: tiny networks, a few
# steps, clips of noise, nothing kept. Leave it unset to see something.
FAST = os.environ.get("LAMD_NOTEBOOK_FAST") == "1"
RUNS = pathlib.Path(tempfile.mkdtemp()) if FAST else pathlib.Path("runs/notebooks")
if FAST:
  FLAGS += """
    --config.data.size=16 --config.data.frames=4 --config.data.num_videos=32
    --config.model.autoencoder.channels=4 --config.model.autoencoder.groups=4
    --config.model.autoencoder.downsample=2,4,4
    --config.model.denoiser.temporal_length=2
    --config.optim.autoencoder.steps=3 --config.optim.autoencoder.warmup=0
    --config.optim.autoencoder.optimizer=adamw --config.train.latent_samples=8
  """.split()

# %% [markdown]
# ## What is there
#
# Asked in a process of its own, so that the chip is free again for the training.

# %%
ASK = "import jax; print(jax.default_backend(), jax.device_count())"
platform, count = subprocess.run(
  [sys.executable, "-c", ASK], capture_output=True, text=True, check=True
).stdout.split()
print(f"{count} x {platform}")
# On a CPU: four virtual devices, which share its cores, so nothing gets faster.
MANY = {"JAX_NUM_CPU_DEVICES": "4"} if platform == "cpu" else {}
devices = 4 if platform == "cpu" else int(count)

# %% [markdown]
# ## Cut over devices
#
# `train.mesh` says what the devices do: `dp` gives each a part of the batch, `fsdp`
# cuts large arrays as well, `fsdp_tp` and `frames` cut layers or time. Sizes can be
# said, as `data=2,fsdp=2`. A TPU computes in bfloat16 by default, as does a GPU that
# has it; others (a T4) and CPUs in float32.

# %%
mesh = "data=2,fsdp=-1" if devices % 2 == 0 else "fsdp"
train = ("-m", "lamd_jax.main", f"--config={CONFIG}", *FLAGS)
python(*train, f"--workdir={RUNS / 'many'}", f"--config.train.mesh={mesh}", **MANY)

# %% [markdown]
# ## And on one
#
# The same training on the first device alone. The losses are the same within what
# rounding does: the sum of a batch is taken in another order.

# %%
python(*train, f"--workdir={RUNS / 'one'}", "--config.train.mesh=one")

# %%
import json


def losses(name):
  lines = (RUNS / name / "autoencoder" / "metrics.jsonl").read_text().splitlines()
  records = [json.loads(line) for line in lines]
  key = next(k for k in records[0] if "loss" in k)
  return [record[key] for record in records]


print(*json.loads((RUNS / "many" / "env.json").read_text())["devices"])
for step, (many, one) in enumerate(zip(losses("many"), losses("one")), 1):
  print(f"step {step:3d}  {devices} devices {many:.6g}  one {one:.6g}")

# %% [markdown]
# ## Does it fit a slice that I do not have?
#
# libtpu holds the compiler of every generation. With it the training step of a config
# is compiled for a slice that need not be there: memory a device, FLOPs, collectives.
# It takes minutes a program, and needs `pip install -e '.[tpu]'`.

# %%
from lamd_jax import ahead

if platform != "tpu" and not ahead.library():
  print("libtpu is not installed: nothing is compiled here")
elif FAST:
  print("left out by LAMD_NOTEBOOK_FAST: it takes minutes")
else:
  python(
    "-m", "lamd_jax.main", f"--config={CONFIG}", "--mode=compile", *FLAGS,
    "--compile.topology=v5e:2x2", "--compile.programs=train",
    "--config.train.mesh=fsdp", JAX_PLATFORMS="cpu",
  )  # fmt: skip

# %% [markdown]
# ## A pod
#
# On several hosts the same command is started on each. `launch/tpu_pod.sh` asks for a
# slice, installs on its workers (`--setup`; ADDRESS is where the repository lies),
# starts, and starts again after a preemption (exit code 75). `--dry-run` prints what it
# would do, and needs no account. The `gpu` variant below needs no data, and its batches
# divide over 16 chips; latents cannot be cached in a bucket. Other launchers in
# `launch/`: SLURM, GKE, SkyPilot. They were tested against stand-ins; no cluster has
# run them.

# %%
command = """
launch/tpu_pod.sh --name sky --zone us-west4-a --type v5litepod-16 --spot --dry-run
  --setup 'sudo apt-get update && sudo apt-get install -y git python3.11-venv &&
    git clone ADDRESS lamd_jax && python3.11 -m venv env &&
    env/bin/pip install -e "./lamd_jax[tpu,gcp]"' --
  bash -c 'cd lamd_jax && ../env/bin/python -m lamd_jax.main \\
    --config=configs/lvdm_sky.py:gpu --workdir=gs://BUCKET/sky \\
    --config.train.latent_cache=false'
"""
import shlex

print(subprocess.run(
  ["bash", *shlex.split(command)], capture_output=True, text=True, check=True
).stdout)  # fmt: skip

# %% [markdown]
# The workdir must lie where all hosts reach it, in a bucket or on a shared disk; data
# and weight files in a folder that every host has. More, also on other numbers of hosts
# than a run began with: `docs/howto/many_devices.md`.
