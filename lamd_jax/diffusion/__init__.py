# SPDX-License-Identifier: Apache-2.0
"""The mathematics of diffusion: functions of arrays that know no network."""
