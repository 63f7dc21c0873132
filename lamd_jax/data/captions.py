# SPDX-License-Identifier: Apache-2.0
"""Which tokenizer a config's captions go through."""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict
import numpy as np

from lamd_jax.data import tokenizers

Tokenizer = Callable[[str], np.ndarray]  # caption -> [tokens] int32


def tokenizer(config: ConfigDict) -> Tokenizer | None:
  """Returns the tokenizer of the `data` group; None where captions are not used.

  Raises:
    WeightsError: `data.vocabulary` is absent or no file of merges.
  """
  if config.tokenizer == "none":
    return None
  if config.tokenizer == "words":
    return tokenizers.Words(config.tokens, config.vocabulary_size)
  return tokenizers.Clip(config.vocabulary, config.tokens)
