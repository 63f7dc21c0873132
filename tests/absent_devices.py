# SPDX-License-Identifier: Apache-2.0
"""A device that is not there, for programs that are traced and not run."""

import jax

from lamd_jax import meshes


def mesh(platform):
  """A context: the mesh of one device of `platform`."""
  device = jax.sharding.AbstractDevice("any", None, platform)
  sizes = (1,) * len(meshes.AXES)
  absent = jax.sharding.AbstractMesh(sizes, meshes.AXES, abstract_device=device)
  return jax.sharding.use_abstract_mesh(absent)
