# SPDX-License-Identifier: Apache-2.0
"""The error of this package, under the name its callers know."""

from lamd_jax.errors import WeightsError as WeightsError
