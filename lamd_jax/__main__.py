# SPDX-License-Identifier: Apache-2.0
"""`python -m lamd_jax` is `python -m lamd_jax.main`."""

from lamd_jax import main

if __name__ == "__main__":
  main.main()
