# SPDX-License-Identifier: Apache-2.0
"""Captions to token ids of fixed length, in NumPy.

A tokenizer is called with one caption and returns [length] int32: a start id, the
caption, an end id, padding. Too long a caption loses its rear; the end id stays. Beside
that it has `length`, `size` (ids are below it), `pad` (the id that pads), `null()`,
the tokens of the empty caption, and `count(caption)`, how many tokens all of it has.
"""

from __future__ import annotations

from collections.abc import Sequence
import gzip
import html
import pathlib
import re
import unicodedata
import zlib

import numpy as np

from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError

_SOURCE = (
  "it is bpe_simple_vocab_16e6.txt.gz of OpenAI's CLIP repository, or merges.txt of"
  " openai/clip-vit-large-patch14"
)


def _framed(
  ids: Sequence[int], start: int, end: int, pad: int, length: int
) -> np.ndarray:
  """Returns start, as many ids as fit, end, padding: [length] int32."""
  tokens = np.full(length, pad, np.int32)
  kept = [start, *ids[: length - 2], end]
  tokens[: len(kept)] = kept
  return tokens


def _check_length(length: int) -> None:
  if length < 2:
    raise ConfigError(f"a tokenizer of length {length}; start and end alone need 2")


class Words:
  """Hashed words: no vocabulary to make or to ship, and none to lose.

  Each lower-cased word and each punctuation mark gets id 3 + crc32 % (size - 3); a
  minus right before a digit belongs to its number, so "(-2, 3)" has the words
  "(", "-2", ",", "3", ")". Two words may share an id; of n words about n^2 / (2 size)
  pairs do. Ids 0, 1, 2 are padding, start and end.
  """

  _WORD = re.compile(r"-(?=\d)\w+|\w+|[^\w\s]")

  def __init__(self, length: int, size: int):
    """Takes the tokens per caption and the number of ids, 4 at least."""
    _check_length(length)
    if size < 4:
      raise ConfigError(f"a vocabulary of {size} ids; 3 are reserved, so 4 at least")
    self.length = length
    self.size = size
    self.pad = 0

  def __call__(self, caption: str) -> np.ndarray:
    """Returns the caption's tokens, [length] int32 in [0, size)."""
    words = self._WORD.findall(caption.lower())
    hashed = [3 + zlib.crc32(word.encode()) % (self.size - 3) for word in words]
    return _framed(hashed, 1, 2, self.pad, self.length)

  def count(self, caption: str) -> int:
    """Returns the tokens of the whole caption, start and end left out."""
    return len(self._WORD.findall(caption.lower()))

  def null(self) -> np.ndarray:
    """Returns the tokens of "", [length] int32."""
    return self("")


def _byte_symbols() -> list[str]:
  """Returns the printable character that stands for each of the 256 bytes."""
  # Bytes that Latin-1 prints stand for themselves; the others follow from U+0100 on.
  plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  rest = [byte for byte in range(256) if byte not in plain]
  return [chr(b if b in plain else 256 + rest.index(b)) for b in range(256)]


def _read_merges(path: pathlib.Path) -> list[tuple[str, ...]]:
  """Reads the merges of either published file, best first, its first line skipped."""
  try:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
  except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
    raise WeightsError(
      f"{path} is no merges file of CLIP ({error}); {_SOURCE}"
    ) from error
  return [tuple(line.split()) for line in text.split("\n")[1:] if line.strip()]


class Clip:
  """CLIP's lower-cased byte-pair encoding, from the user's merges file.

  The text is cleaned as OpenAI does, but for ftfy, of which only the composition of
  accents (NFC) is done here. ftfy would besides repair text decoded with the wrong
  charset, straighten curly quotes, split ligatures, narrow full-width letters and drop
  control characters: such captions get other tokens.
  """

  MERGES = 48_894  # of the published vocabulary; OpenAI's file goes on, unused

  # The two ids may be written out in a caption; OpenAI's tokenizer takes them so too.
  _FIXED = re.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d", re.IGNORECASE
  )
  _RUN = re.compile("L+|N|O+|S")
  _MAX_CACHED = 1 << 16

  def __init__(
    self,
    vocabulary_path: str | pathlib.Path,
    length: int = 77,
    pad: str = "end",
    merges: int = MERGES,
  ):
    """Reads the vocabulary.

    Args:
      vocabulary_path: OpenAI's bpe_simple_vocab_16e6.txt, gzipped or not, or Hugging
        Face's merges.txt. No vocab.json: the merges' order gives the ids.
      length: tokens per caption.
      pad: "end" pads with the end id, as Hugging Face's tokenizer for ViT-L/14 and so
        LVDM; "zero" with 0, as OpenAI's. It matters where all hidden states are used.
      merges: how many merges the vocabulary has.

    Raises:
      ConfigError: a length or padding that cannot be.
      WeightsError: one line; the file is absent or another.
    """
    _check_length(length)
    path = pathlib.Path(vocabulary_path).expanduser()
    if not path.is_file():
      raise WeightsError(f"{path} does not exist or is no file; {_SOURCE}")
    found = _read_merges(path)[:merges]
    self._bytes = _byte_symbols()
    # OpenAI numbers the printable bytes first, in the order of their characters.
    letters = sorted(self._bytes)
    names = [*letters, *(letter + "</w>" for letter in letters)]
    known = set(names)
    for line, pair in enumerate(found, 2):
      if len(pair) != 2 or not known.issuperset(pair):
        raise WeightsError(
          f"{path} line {line} merges what no line before it makes; {_SOURCE}"
        )
      known.add("".join(pair))
      names.append("".join(pair))
    # GPT-2's file looks alike but marks the starts of words, not their ends.
    if len(found) < merges or not any(b.endswith("</w>") for _, b in found):
      raise WeightsError(
        f"{path} has {len(found)} merges, expected {merges} with </w> at the ends of"
        f" words; {_SOURCE}"
      )
    self.size = len(names) + 2
    self.length = length
    self.start, self.end = self.size - 2, self.size - 1
    pads = {"end": self.end, "zero": 0}
    if pad not in pads:
      raise ConfigError(f"pad={pad!r}; expected one of {', '.join(pads)}")
    self.pad = pads[pad]
    self._ids = {name: i for i, name in enumerate(names)}
    self._rank = {pair: i for i, pair in enumerate(found)}
    self._cache: dict[str, list[int]] = {}

  def __call__(self, caption: str) -> np.ndarray:
    """Returns the caption's tokens, [length] int32 in [0, size)."""
    ids: list[int] = []
    for piece in self._pieces(_cleaned(caption)):
      ids += self._encoded(piece)
      if len(ids) >= self.length - 2:
        break
    return _framed(ids, self.start, self.end, self.pad, self.length)

  def count(self, caption: str) -> int:
    """Returns the tokens of the whole caption, start and end left out."""
    return sum(len(self._encoded(piece)) for piece in self._pieces(_cleaned(caption)))

  def null(self) -> np.ndarray:
    """Returns the tokens of "", [length] int32."""
    return self("")

  def _pieces(self, text: str) -> list[str]:
    """Splits at spaces and between letters, single digits and everything else."""
    kinds = "".join(map(_kind, text))
    pieces, at = [], 0
    while at < len(text):
      match = self._FIXED.match(text, at) or self._RUN.match(kinds, at)
      if kinds[at] != "S":
        pieces.append(text[at : match.end()])
      at = match.end()
    return pieces

  def _encoded(self, piece: str) -> list[int]:
    """Returns the ids of one piece, remembered for a bounded number of pieces."""
    fixed = {"<|startoftext|>": self.start, "<|endoftext|>": self.end}.get(piece)
    if fixed is not None:
      return [fixed]
    if piece not in self._cache:
      if len(self._cache) >= self._MAX_CACHED:
        self._cache.clear()
      self._cache[piece] = [self._ids[name] for name in self._merged(piece)]
    return self._cache[piece]

  def _merged(self, piece: str) -> list[str]:
    """Byte-pair encoding: merges the best-ranked pair until none is listed."""
    word = [self._bytes[byte] for byte in piece.encode()]
    word[-1] += "</w>"
    worst = len(self._rank)
    while len(word) > 1:
      best = min(zip(word, word[1:]), key=lambda pair: self._rank.get(pair, worst))
      if best not in self._rank:
        break
      joined, i = [], 0
      while i < len(word):
        here = tuple(word[i : i + 2]) == best
        joined.append("".join(best) if here else word[i])
        i += 1 + here
      word = joined
    return word


def _cleaned(caption: str) -> str:
  text = unicodedata.normalize("NFC", caption)
  # Twice, since scraped captions are often escaped twice.
  text = html.unescape(html.unescape(text))
  return " ".join(text.split()).lower()


def _kind(character: str) -> str:
  r"""Letter, number, space or other: \p{L}, \p{N}, \s of the published pattern.

  By category, since str.isnumeric() holds for Chinese numerals, which are letters.
  """
  if character.isspace():
    return "S"
  category = unicodedata.category(character)[0]
  return category if category in "LN" else "O"
