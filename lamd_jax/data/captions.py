# SPDX-License-Identifier: Apache-2.0
"""Which tokenizer a config's captions go through."""

from __future__ import annotations

from collections.abc import Iterable

from ml_collections import ConfigDict

from lamd_jax.data import tokenizers

Tokenizer = tokenizers.Words | tokenizers.Clip  # caption -> [tokens] int32
_SHOWN = 40  # characters of a caption in a note


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


def notes(tokenize: Tokenizer | None, texts: Iterable[str]) -> list[str]:
  """Returns a line about captions that are longer than what is read of them, if any."""
  if tokenize is None:
    return []
  kept = tokenize.length - 2  # beside start and end
  counts = {text: tokenize.count(text) for text in dict.fromkeys(texts)}
  long = [text for text, count in counts.items() if count > kept]
  if not long:
    return []
  shown = " ".join(long[0].split())
  shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
  more = f"; likewise of {len(long) - 1} more" if long[1:] else ""
  return [
    f"text={shown}: the first {kept} of its {counts[long[0]]} tokens (words, marks) are"
    f" read, the rest is not (data.tokens={tokenize.length}){more}"
  ]
