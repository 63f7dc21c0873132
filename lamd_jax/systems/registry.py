# SPDX-License-Identifier: Apache-2.0
"""The systems by name. A config says which (`config.system`)."""

from lamd_jax.systems import lvdm

SYSTEMS = {"lvdm": lvdm.LVDM}
