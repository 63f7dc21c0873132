# SPDX-License-Identifier: Apache-2.0
"""The error of this package."""

from __future__ import annotations

from lamd_jax.errors import DataError as DataError
