# SPDX-License-Identifier: Apache-2.0
"""Installs lamd_jax: video diffusion for JAX, from laptop to TPU pod."""

import pathlib

import setuptools

PARITY = ["torch==2.13.0", "transformers>=5"]
TEST = [
  "pytest>=8", "pytest-xdist>=3", "tensorboard>=2.16", "jsonschema>=4", "pyyaml>=6"
]
NOTEBOOKS = ["jupytext>=1.16", "nbclient>=0.10", "ipykernel>=6.29", "nbformat>=5.10"]
DOCS = ["sphinx>=8,<10", "myst-parser>=4", "furo>=2024.8"]

setuptools.setup(
  name="lamd_jax",
  version="0.1.0",
  description="Latent video diffusion (LVDM, LaMD, Gen-1) in JAX, every stage trained",
  long_description=pathlib.Path(__file__).with_name("README.md").read_text("utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["lamd_jax", "lamd_jax.*"]),
  package_data={"lamd_jax": ["py.typed"]},
  install_requires=[
    "jax>=0.10.2,<0.12",
    "flax>=0.12,<0.13",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.12.8,<0.13",
    "chex>=0.1.90",
    "ml_collections>=1.1",
    "tensorflow-datasets>=4.9.9",
    "grain>=0.2.18,<0.3",
    "clu>=0.0.12",
    "numpy>=2.0",
    "absl-py>=2",
    "etils[epath]>=1.9",
    "av>=18",
    "safetensors>=0.5",
    "pillow>=11",
  ],
  extras_require={
    "test": TEST,
    "parity": PARITY,
    "tensorboard": ["tensorboard>=2.16"],
    "hub": ["huggingface_hub>=0.30"],  # lamd_jax.load("hub:OWNER/NAME")
    "wandb": ["wandb>=0.19"],  # train.wandb
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda12]"],
    "gcp": ["etils[epath-gcs]", "gcsfs"],
    "beam": ["apache-beam>=2.77"],  # tools.prepare --runner=...
    "notebooks": NOTEBOOKS,  # to execute notebooks/
    "docs": DOCS,
    # Playwright: pages in a browser; Chromium is the system's.
    "dev": [*TEST, *PARITY, *NOTEBOOKS, *DOCS, "playwright>=1.50", "pyink>=24.10"],
  },
)
