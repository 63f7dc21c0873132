# SPDX-License-Identifier: Apache-2.0
"""Latent video diffusion in JAX: LVDM, LaMD and Gen-1, every stage trained."""
