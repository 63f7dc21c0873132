# SPDX-License-Identifier: Apache-2.0
"""Tokenizers on captions worked out by hand.

The merges below are made up; ids follow from their order: 256 bytes, 256 bytes that
end a word, the merges, start, end. The slow tests compare with transformers.
"""

import gzip
import json
import pickle
import sys
import unicodedata
import zlib

import numpy as np
import pytest

from lamd_jax.data import captions
from lamd_jax.data import tokenizers
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError

# "c a" before "a t": the order matters. The last never applies: digits stand alone.
MERGES = ["a n", "an d</w>", "c a", "ca t</w>", "a t</w>", "t h", "th e</w>", "0 0</w>"]
FIRST = 512
START, END = FIRST + len(MERGES), FIRST + len(MERGES) + 1


@pytest.fixture(scope="module")
def merges(tmp_path_factory):
  path = tmp_path_factory.mktemp("clip") / "merges.txt"
  path.write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", "utf-8")
  return path


@pytest.fixture(scope="module")
def clip(merges):
  return tokenizers.Clip(merges, 16, "end", len(MERGES))


def _inner(tokenizer, caption):
  """The ids between start and the first end."""
  tokens = tokenizer(caption).tolist()
  assert tokens[0] == tokenizer.start
  return tokens[1 : tokens.index(tokenizer.end)]


def _byte(character, last):
  """The id of a printable ASCII character: bytes from "!" on come first."""
  return ord(character) - ord("!") + (256 if last else 0)


def test_a_caption_that_loses_its_end_is_told(clip):
  words = tokenizers.Words(6, 1000)
  assert captions.notes(None, ["a"]) == captions.notes(words, ["", "one two, three"]) == []
  long = "a cone,\nand " + 20 * "very " + "late"
  (note,) = captions.notes(words, ["a cone", long, long, "and one two three four"])
  assert note == (
    "text=a cone, and very very very very very ver...: the first 4 of its 25 tokens"
    " (words, marks) are read, the rest is not (data.tokens=6); likewise of 1 more"
  )
  # Fourteen ids fit beside start and end: "cat" is one, "dog" three.
  assert captions.notes(clip, [14 * "cat "]) == []
  (note,) = captions.notes(clip, [13 * "cat " + "dog"])
  assert "the first 14 of its 16 tokens" in note


def test_words_by_hand():
  words = tokenizers.Words(12, 1000)
  ids = [3 + zlib.crc32(w.encode()) % 997 for w in ("a", "cat", ",", "ünder", "!")]
  assert ids[1] == 3 + 0x9E5E43A8 % 997  # crc32("cat") as any other program gives it
  expected = np.array([1, *ids, 2, 0, 0, 0, 0, 0], np.int32)
  np.testing.assert_array_equal(words("A  Cat, ÜNDER!"), expected, strict=True)
  np.testing.assert_array_equal(words.null(), [1, 2] + 10 * [0])
  assert (words.length, words.size, words.pad) == (12, 1000, 0)


@pytest.mark.parametrize(
  "caption, expected",
  [
    ("(-2, 3)", ["(", "-2", ",", "3", ")"]),
    ("moves by -12 - 4", ["moves", "by", "-12", "-", "4"]),
    ("well-known", ["well", "-", "known"]),
    ("don't", ["don", "'", "t"]),
    ("?!", ["?", "!"]),
    ("\t\n ", []),
  ],
)
def test_words_are_split(caption, expected):
  words = tokenizers.Words(9, 1 << 20)
  assert words(caption).tolist() == words(" ".join(expected)).tolist()
  count = int((words(caption) > 2).sum())
  assert count == len(expected)


def test_words_truncate_and_keep_the_end():
  words = tokenizers.Words(4, 50)
  tokens = words("one two three four")
  assert tokens[0] == 1 and tokens[-1] == 2
  np.testing.assert_array_equal(tokens, words("one two"))
  every = tokenizers.Words(2002, 50)(" ".join(map(str, range(2000))))
  assert set(every[1:-1]) == set(range(3, 50))


def test_wrong_settings_are_refused(merges):
  with pytest.raises(ConfigError, match="length 1"):
    tokenizers.Words(1, 50)
  with pytest.raises(ConfigError, match="3 ids"):
    tokenizers.Words(8, 3)
  with pytest.raises(ConfigError, match="length 0"):
    tokenizers.Clip(merges, 0)
  with pytest.raises(ConfigError, match="pad='eot'.*end, zero"):
    tokenizers.Clip(merges, 8, "eot", len(MERGES))


def test_merges_apply_in_order_of_rank(clip):
  cat, at, the = FIRST + 3, FIRST + 4, FIRST + 6
  # "ca" before "at": ca+t, not c+at. "hat" has no better pair than "at".
  assert _inner(clip, "the cat") == [the, cat]
  assert _inner(clip, "hat") == [_byte("h", False), at]
  # "an" is merged at both places; "and" only where it ends the word.
  assert _inner(clip, "and") == [FIRST + 1]
  assert _inner(clip, "andan") == [FIRST, _byte("d", False), _byte("a", False),
                                   _byte("n", True)]  # fmt: skip
  assert _inner(clip, "anand") == [FIRST, FIRST + 1]
  assert _inner(clip, "00") == 2 * [_byte("0", True)]


def test_frame_and_padding(clip, merges):
  tokens = clip("The CAT")
  expected = [START, FIRST + 6, FIRST + 3] + 13 * [END]
  np.testing.assert_array_equal(tokens, np.array(expected, np.int32), strict=True)
  assert (clip.length, clip.size, clip.pad) == (16, END + 1, END)
  zero = tokenizers.Clip(str(merges), 6, "zero", len(MERGES))
  assert zero("the cat").tolist() == [START, FIRST + 6, FIRST + 3, END, 0, 0]
  assert zero("the " * 99).tolist() == [START] + 4 * [FIRST + 6] + [END]
  np.testing.assert_array_equal(zero.null(), [START, END, 0, 0, 0, 0])


@pytest.mark.parametrize(
  "caption, pieces",
  [
    ("it's we'll they'd", ["it", "'s", "we", "'ll", "they", "'d"]),
    ("'tis o'clock", ["'t", "is", "o", "'", "clock"]),
    ("!'s", ["!'", "s"]),  # a run of signs takes the apostrophe along
    ("a1b22", ["a", "1", "b", "2", "2"]),
    ("x_y...z", ["x", "_", "y", "...", "z"]),
    ("½Ⅷ²", ["½", "Ⅷ", "²"]),  # numbers of category No and Nl
    ("三人", ["三人"]),  # a numeral for str.isnumeric(), a letter for \p{L}
    ("ʰᾳ", ["ʰᾳ"]),  # modifier letters and small letters
    ("e\u0324x", ["e", "\u0324", "x"]),  # a mark that does not compose is no letter
    ("a\u00a0b\u3000c", ["a", "b", "c"]),
    ("<|endoftext|>a<|startoftext|>", ["<|endoftext|>", "a", "<|startoftext|>"]),
  ],
)
def test_pieces(clip, caption, pieces):
  assert clip._pieces(caption) == pieces


def test_kinds_are_those_of_unicode():
  """Every character: category L, category N, space, or else."""
  for code in range(sys.maxunicode + 1):
    character = chr(code)
    category = unicodedata.category(character)
    kind = tokenizers._kind(character)
    if character.isspace():
      assert kind == "S" and category[0] not in "LN"
    else:
      assert kind == {"L": "L", "N": "N"}.get(category[0], "O")
      # What Python's own classes say, where they agree on the question.
      assert (kind == "L") == character.isalpha()


def test_cleaning(clip):
  # Escaped twice, spaces of several kinds, capitals.
  the, cat, ampersand = FIRST + 6, FIRST + 3, _byte("&", True)
  assert _inner(clip, " The \n\t cat&amp;amp; ") == [the, cat, ampersand]
  # Composed and decomposed accents are the same text: bytes C3 A9.
  assert _inner(clip, "e\u0301") == _inner(clip, "é")
  # C3 and A9 print in Latin-1: after the 94 of ASCII come A1 to AC and AE to FF.
  c3, a9 = 94 + 0xC3 - 0xA1 - 1, 94 + 0xA9 - 0xA1
  assert _inner(clip, "é") == [c3, 256 + a9]
  # An emoji's bytes F0 9F 98 80, of which only F0 prints. The others are numbered in
  # order after the 188 that do: 00 to 20, 7F, 80, ...: byte b at 188 + 34 + b - 80.
  f0 = 94 + 0xF0 - 0xA1 - 1
  other = lambda b: 188 + 34 + b - 0x80
  expected = [f0, other(0x9F), other(0x98), 256 + other(0x80)]
  assert _inner(clip, "😀") == expected


def test_written_out_start_and_end_are_ids(clip):
  tokens = clip("cat<|startoftext|>").tolist()
  assert tokens[1:4] == [FIRST + 3, START, END]


def test_forms_of_the_file_agree(merges, clip, tmp_path):
  zipped = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
  # OpenAI's has more merges than the vocabulary takes.
  zipped.write_bytes(gzip.compress(merges.read_bytes() + b"c at</w>\n"))
  other = tokenizers.Clip(zipped, 16, "end", len(MERGES))
  for caption in ("the cat and the hat", "Cat's 100"):
    np.testing.assert_array_equal(other(caption), clip(caption))


def test_pickles_and_bounds_its_memory(clip, monkeypatch):
  again = pickle.loads(pickle.dumps(clip))
  np.testing.assert_array_equal(again("the cat's hat"), clip("the cat's hat"))
  words = pickle.loads(pickle.dumps(tokenizers.Words(8, 99)))
  np.testing.assert_array_equal(words("x y"), tokenizers.Words(8, 99)("x y"))
  monkeypatch.setattr(tokenizers.Clip, "_MAX_CACHED", 5)
  before = again("the cat")
  for i in range(40):
    again(chr(ord("a") + i % 26) * (i + 1))
    assert len(again._cache) <= 5
  np.testing.assert_array_equal(again("the cat"), before)


def test_a_wrong_file_is_refused(merges, tmp_path):
  def refused(path, count=len(MERGES)):
    with pytest.raises(WeightsError) as caught:
      tokenizers.Clip(path, 16, "end", count)
    said = str(caught.value)
    assert said.startswith(str(path)) and "\n" not in said
    assert "bpe_simple_vocab_16e6.txt.gz" in said and "merges.txt" in said
    return said

  assert "does not exist" in refused(tmp_path / "absent.txt")
  assert "has 8 merges, expected 48894" in refused(merges, tokenizers.Clip.MERGES)
  path = tmp_path / "wrong"
  path.write_bytes(gzip.compress(merges.read_bytes())[:-9])
  assert "is no merges file" in refused(path)
  path.write_bytes(b"\xff\xfe\x00")
  assert "is no merges file" in refused(path)
  path.write_text("#\na n\nx yz\n")
  assert "line 3" in refused(path)
  path.write_text("#\na n b\n")
  assert "line 2" in refused(path)
  path.write_text("#version: 0.2\nĠ a\nĠa n\n")  # GPT-2's manner
  assert "has 2 merges, expected 2 with </w>" in refused(path, 2)


CAPTIONS = (
  "",
  "the cat and the hat",
  "A Cat's hat, they'll  see!! 100 and 12",
  "don't 'tis o'clock x_y ... (3.5)",
  "cafe\u0301 naïve ½ Ⅷ 三人 ПРИВЕТ 😀👍",
  "the " * 40,
)


@pytest.mark.slow
def test_ids_are_those_of_transformers(merges, clip, tmp_path):
  transformers = pytest.importorskip("transformers")
  names = list(clip._ids) + ["<|startoftext|>", "<|endoftext|>"]
  vocabulary = {name: i for i, name in enumerate(names)}
  (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
  theirs = transformers.CLIPTokenizer(
    vocab=str(tmp_path / "vocab.json"), merges=str(merges)
  )
  for caption in CAPTIONS:
    expected = theirs(
      caption, padding="max_length", truncation=True, max_length=clip.length
    )
    np.testing.assert_array_equal(clip(caption), expected["input_ids"], caption)


@pytest.mark.slow
def test_kinds_are_those_of_the_published_pattern():
  regex = pytest.importorskip("regex")
  letter, number, space = (regex.compile(p) for p in (r"\p{L}", r"\p{N}", r"\s"))
  different = []
  for code in range(sys.maxunicode + 1):
    character = chr(code)
    if unicodedata.category(character) in ("Cn", "Cs"):
      continue  # the two know different versions of Unicode
    kinds = {"L": letter, "N": number, "S": space}
    theirs = [k for k, pattern in kinds.items() if pattern.match(character)] or ["O"]
    if theirs != [tokenizers._kind(character)]:
      different.append(code)
  # Separators that ftfy drops: spaces for Python, none for Unicode.
  assert different == [0x1C, 0x1D, 0x1E, 0x1F]
