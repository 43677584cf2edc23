"""Byte-level byte-pair encoding: train, encode, decode, trace, save.

BPE (Gage 1994; Sennrich et al., arXiv:1508.07909) on the bytes of UTF-8, inside pre-tokens cut by a regex, as in GPT-2:

    repeat: (left, right) = the most frequent pair of neighbours; the next id stands for left followed by right

Ids: 0–255 are the byte values, 256 + rank the merges in the order learned, the special tokens last.
Departures from GPT-2: the pattern takes digits one by one and knows no English contractions but a letter run's leading
apostrophe; ids of bytes are their values. Among equal counts the pair with the smaller ids goes first, bytes ordered as
GPT-2 prints them: that is how the Rust library `tokenizers` settles it, so both learn the same merges.

Settled: cut by PATTERN, every pre-token of a text but the last stays as it is, whatever text follows. So text can be
encoded while it arrives, and the world can know the exact distribution of the next token.

Why plain Python is fast enough: a word is a `str` with the character chr(id) for each token. A pair is then a string of
two characters, and `str.replace` merges it everywhere in the word, leftmost first.
"""

import functools
import hashlib
import heapq
import json
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import regex
import tiktoken

PATTERN = r"[ ']?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>",
    "<|think|>", "<|/think|>", "<|call|>", "<|result|>",
)  # fmt: skip
FORMAT = "llmkit byte-level BPE, version 1"

_COMPILED = regex.compile(PATTERN)
_LONG_SPACE = regex.compile(r"\s{250}")
_VISIBLE = bytes([*range(33, 127), *range(161, 173), *range(174, 256)])  # GPT-2 prints these as they are, and first
_BYTE_AT = _VISIBLE + bytes(sorted(set(range(256)) - set(_VISIBLE)))
_PLACE_OF = bytes(_BYTE_AT.index(byte) for byte in range(256))


class Merge(NamedTuple):
    left: int
    right: int
    count: int  # how often the pair stood in the training text when it was merged


class Step(NamedTuple):
    """One frame of an encoding. The merge that led here took place wherever `words` now holds the id 256 + rank."""

    words: list[tuple[int, ...]]  # the ids of each pre-token
    pair: tuple[int, int] | None  # None in the first frame, which shows the bytes
    rank: int | None


def pairs_of(word: str) -> list[str]:
    return [word[i : i + 2] for i in range(len(word) - 1)]


def learn_merges_naive(words: Counter[str], n_merges: int) -> list[tuple[str, int]]:
    """The definition: count every pair afresh, merge the most frequent, repeat. Returns (pair, count) by rank."""
    merges = []
    while len(merges) < n_merges:
        counts = Counter()
        for word, frequency in words.items():
            for pair in pairs_of(word):
                counts[pair] += frequency
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append((best, counts[best]))
        words = {word.replace(best, chr(255 + len(merges))): frequency for word, frequency in words.items()}
    return merges


def learn_merges(words: Counter[str], n_merges: int) -> list[tuple[str, int]]:
    """The same merges as `learn_merges_naive`: a merge visits only the words that hold its pair, and there only the
    neighbours. Once a pair exists its count can only fall, so an entry of the heap is at worst too high: when it comes
    up it goes back in with the true count."""
    words, frequencies = list(words), list(words.values())
    counts, places = defaultdict(int), defaultdict(list)  # pair -> occurrences; pair -> words that hold it, or once did
    for place, word in enumerate(words):
        for pair in pairs_of(word):
            counts[pair] += frequencies[place]
            places[pair].append(place)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    merges = []
    while heap and len(merges) < n_merges:
        negative, best = heapq.heappop(heap)
        if counts[best] != -negative:
            heapq.heappush(heap, (-counts[best], best))
            continue
        if negative == 0:
            break
        merges.append((best, -negative))
        (left, right), new, created = best, chr(255 + len(merges)), set()
        for place in set(places.pop(best)):
            parts = words[place].split(best)
            words[place] = new.join(parts)
            for i in range(1, len(parts)):  # a pair stood between parts; all before it is merged, nothing after it
                before = parts[i - 1][-1:] or (new if i > 1 else "")
                after = parts[i][:1] or (left if i + 1 < len(parts) else "")
                for gone, pair in ((before + left, before + new), (right + after, new + after)):
                    if len(pair) == 2:  # an edge of the word has no neighbour
                        counts[gone] -= frequencies[place]
                        counts[pair] += frequencies[place]
                        places[pair].append(place)
                        created.add(pair)
        for pair in created:
            heapq.heappush(heap, (-counts[pair], pair))
    return merges


@functools.cache
def _split_alike(char: str) -> bool:
    """Whether `regex` and tiktoken put a character into the same class: their Unicode tables differ in age."""
    classes = (r"\p{L}", r"\p{N}", r"\s")
    return all(bool(regex.match(name, char)) == bool(_probe(name).encode_ordinary(char)) for name in classes)


@functools.cache
def _probe(char_class: str) -> tiktoken.Encoding:
    ranks = {bytes([byte]): byte for byte in range(256)}
    return tiktoken.Encoding("probe", pat_str=char_class, mergeable_ranks=ranks, special_tokens={})


def _utf8(text: str) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, not {type(text).__name__} (for bytes there is encode_bytes)")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds a lone surrogate, {text[error.start]!r}, at position {error.start}: half a character, "
            "which UTF-8 cannot hold; repair the text where it was read, or remove it"
        ) from None


class Tokenizer:
    """Byte-level BPE. Lossless: decode(encode(text)) == text, decode_bytes(encode_bytes(data)) == data."""

    def __init__(self, merges: Sequence[Merge], special_tokens: Sequence[str] = SPECIAL_TOKENS):
        self.merges = [Merge(*merge) for merge in merges]
        pieces = [bytes([byte]) for byte in range(256)]
        for rank, (left, right, _) in enumerate(self.merges):
            if not (0 <= left < 256 + rank and 0 <= right < 256 + rank):
                raise ValueError(f"merge {rank} joins ids {left} and {right}, but can only join ids below {256 + rank}")
            pieces.append(pieces[left] + pieces[right])
        self.special_tokens = {name: id for id, name in enumerate(special_tokens, start=len(pieces))}
        self.eos_id = self.special_tokens[SPECIAL_TOKENS[0]]
        self._bytes = pieces + [name.encode() for name in self.special_tokens]
        self.vocab_size = len(self._bytes)
        self._ranks = {chr(merge.left) + chr(merge.right): rank for rank, merge in enumerate(self.merges)}
        self._words: dict[str, tuple[int, ...]] = {}  # memo of encode_word

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learns vocab_size − 256 − 9 merges; warns, and stops with fewer, when the texts have no pair left to merge.
        Special tokens written in the texts are plain text. Memory grows with the distinct pre-tokens only."""
        if isinstance(texts, (str, bytes)):
            raise TypeError("texts must be a collection of strings; for one text write Tokenizer.train([text], ...)")
        n_merges = vocab_size - 256 - len(SPECIAL_TOKENS)
        if n_merges < 0:
            raise ValueError(f"vocab_size is {vocab_size}, but bytes and special tokens need {vocab_size - n_merges}")
        pre_tokens = Counter()
        for text in texts:
            _utf8(text)
            pre_tokens.update(_COMPILED.findall(text))
        words = {word.encode().translate(_PLACE_OF).decode("latin-1"): count for word, count in pre_tokens.items()}
        ids = [*_BYTE_AT, *range(256, 256 + n_merges)]  # from a character of a word to the id
        merges = [Merge(ids[ord(a)], ids[ord(b)], count) for (a, b), count in learn_merges(words, n_merges)]
        if len(merges) < n_merges:
            warnings.warn(f"no pair is left after {len(merges)} of {n_merges} merges: train on more text", stacklevel=2)
        return cls(merges)

    def pre_tokens(self, text: str) -> list[str]:
        """Cuts text at the regex; the pieces join to the text, and BPE never merges across a cut."""
        _utf8(text)
        return _COMPILED.findall(text)

    def encode_word(self, pre_token: str) -> tuple[int, ...]:
        """BPE of one pre-token, by the definition: merge the pair learned first, until none is left. Memoised."""
        ids = self._words.get(pre_token)
        if ids is None:
            ids = self._words[pre_token] = self._merge_all(_utf8(pre_token))
        return ids

    def _merge_all(self, data: bytes) -> tuple[int, ...]:
        word = data.decode("latin-1")
        while pair := self._first_pair([word]):
            word = word.replace(pair, chr(256 + self._ranks[pair]))
        return tuple(map(ord, word))

    def _first_pair(self, words: list[str]) -> str | None:
        known = self._ranks.keys() & {pair for word in words for pair in pairs_of(word)}
        return min(known, key=self._ranks.__getitem__, default=None)

    def encode_plain(self, text: str) -> list[int]:
        """`encode` by the definition: every pre-token on its own."""
        return [i for pre_token in self.pre_tokens(text) for i in self.encode_word(pre_token)]

    def encode(self, text: str) -> list[int]:
        """Ids of any text, at tiktoken's speed. Names of special tokens are plain text: no text can forge a special id.

        Raises ValueError on a lone surrogate (tiktoken would replace it), TypeError on anything but a str. Where
        tiktoken would go wrong the definition steps in: letters newer than its tables, a million white spaces in a row.
        """
        beyond_ascii = _utf8(text).translate(None, delete=bytes(range(128))).decode()
        long_space = _LONG_SPACE.search(text[::1000])  # 250 samples in a row are white: true of any run of 250,000
        if long_space or not all(map(_split_alike, set(beyond_ascii))):
            return self.encode_plain(text)
        return self._tiktoken.encode_ordinary(text)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes: valid UTF-8 as `encode` has it; each byte that is not part of valid UTF-8 is its own id."""
        text, ids = bytes(memoryview(data)).decode("utf-8", "surrogateescape"), []  # a bad byte becomes U+DC00 + byte
        for i, part in enumerate(re.split("([\udc80-\udcff]+)", text)):
            ids += part.encode("utf-8", "surrogateescape") if i % 2 else self.encode(part)
        return ids

    def trace(self, text: str) -> list[Step]:
        """Every frame of encoding a text, from bytes to tokens; a frame applies one merge in all pre-tokens at once."""
        words = [pre_token.encode().decode("latin-1") for pre_token in self.pre_tokens(text)]
        steps = [Step([tuple(map(ord, word)) for word in words], None, None)]
        while pair := self._first_pair(words):
            rank = self._ranks[pair]
            words = [word.replace(pair, chr(256 + rank)) for word in words]
            steps.append(Step([tuple(map(ord, word)) for word in words], self.merges[rank][:2], rank))
        return steps

    def token_bytes(self, id: int) -> bytes:
        return self.decode_bytes([id])

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of any ids (list, array or tensor of one dimension). Raises ValueError on an id out of range."""
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        for i in ids:
            if not hasattr(i, "__index__") or not 0 <= i < self.vocab_size:
                raise ValueError(f"{str(i):.40} is no token id: ids are whole numbers from 0 to {self.vocab_size - 1}")
        return b"".join([self._bytes[i] for i in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of any ids; bytes that are not UTF-8, such as half a character, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def to_tiktoken(self) -> tiktoken.Encoding:
        """The same tokenizer as a tiktoken.Encoding, special tokens registered."""
        ranks = {self._bytes[i]: i for i in range(256 + len(self.merges))}
        return tiktoken.Encoding("llmkit", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=self.special_tokens)

    @functools.cached_property
    def _tiktoken(self) -> tiktoken.Encoding:
        return self.to_tiktoken()

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of all that decides ids (the counts at training time do not)."""
        decisive = [PATTERN, [merge[:2] for merge in self.merges], list(self.special_tokens)]
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, fingerprint={self.fingerprint!r})"

    def save(self, path: str | Path) -> None:
        """One readable JSON file, a merge a line: [left id, right id, count, text]. Written whole or not at all."""
        head = {"format": FORMAT, "pattern": PATTERN, "special_tokens": list(self.special_tokens)}
        rows = [[*merge, self.decode([id])] for id, merge in enumerate(self.merges, start=256)]
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        body = f'{json.dumps(head, indent=1)[:-2]},\n "merges": [\n{lines}\n ]\n}}\n'
        unfinished = Path(f"{path}.unfinished")
        unfinished.write_text(body, encoding="utf-8", newline="\n")
        os.replace(unfinished, path)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads what `save` wrote; anything else is a ValueError that says what is wrong with the file."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if (data["format"], data["pattern"]) != (FORMAT, PATTERN):
                raise ValueError(f"its format or pattern is not that of {FORMAT!r}")
            tokenizer = cls([Merge(*map(int, row[:3])) for row in data["merges"]], data["special_tokens"])
            for id, piece in enumerate(tokenizer._bytes[: 256 + len(tokenizer.merges)]):
                if tokenizer._merge_all(piece) != (id,):
                    raise ValueError(f"no training could learn its merge {id - 256} in that place")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path} is damaged, or no tokenizer file of this llmkit ({error})") from None
        return tokenizer
