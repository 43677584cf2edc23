"""Unigram language model tokenization: train, encode, n best, sample, decode.

Kudo (2018), arXiv:1804.10959, as in SentencePiece. A text is a row of pieces drawn independently from a distribution p.
Most texts can be cut into pieces in several ways, its segmentations x; a text is encoded by the most probable one:

    log P(x) = sum_i log p(x_i)        encode: argmax_x log P(x)        train: argmax_p sum_texts log sum_x P(x)

Training goes the opposite way of BPE: it begins with every frequent substring, and in turns runs EM on p and throws
away the pieces that would be missed least, until as many are left as were asked for.

Ids: 0–255 are the byte values, then the pieces from the most probable down, the special tokens last. A character that
is no piece costs min_i log p(x_i) − 10 and is spelled in the bytes of its UTF-8 (SentencePiece's byte_fallback).
Departures from SentencePiece: pieces stay inside the pre-tokens of PATTERN and may begin with several spaces (there:
inside words, cut again where the script changes, with one space); the M step is the paper's, counts over their sum
(there: a digamma of the counts, which favours few pieces); a piece is missed as much as its expected count times what
spelling it otherwise costs (there: Viterbi counts); ▁ (U+2581) in a text comes back as itself (there: as a space).
"""

import hashlib
import heapq
import math
import random
import warnings
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple

import regex

from llmkit.tokenizer import SPECIAL_TOKENS

# Whether a pattern here cuts between two characters depends on these two alone. So every pre-token but the last is
# settled whatever text follows, no piece ever matches across a cut, and the best segmentation of a text is the best
# segmentations of its pre-tokens, joined.
PATTERN = r" *\p{L}+|\p{N}| *[^\s\p{L}\p{N}]+|[^\S ]+| +"
BEFORE_SPACES = r" ?[^ ]+| "  # for pieces of a SentencePiece model: it cuts before every space and nowhere else
SPACE = "▁"  # how pieces show a space

MAX_PIECE_LENGTH = 16  # characters
SEEDS_PER_PIECE = 10
SHRINK = 0.75  # of the pieces survive a round
CHARACTER_COVERAGE = 0.9995  # of the training text is made of characters that stay pieces whatever happens
MIN_COUNT = 0.5  # what the M step takes for any expected count below it
UNKNOWN_PENALTY = 10.0

Edge = tuple[int, int, float]  # start, end, log p: one piece, or unknown character, at one place in a text


class Piece(NamedTuple):
    text: str  # "▁the"
    logprob: float


class Round(NamedTuple):
    n_pieces: int
    nats: float  # −log P of the training text, summed over all segmentations, at the round's last E step


class PieceModel:
    """p over pieces, and the lattice of all segmentations of a text."""

    def __init__(self, logprobs: Mapping[str, float]):
        self.logprobs = logprobs
        self.longest = max(map(len, logprobs), default=0)
        self.unknown = float32(min(logprobs.values(), default=0.0) - UNKNOWN_PENALTY)

    def edges(self, text: str, longest: int | None = None) -> Iterator[Edge]:
        """Every piece at every place, and every character that is no piece; ordered by start."""
        for start, char in enumerate(text):
            if char not in self.logprobs:
                yield start, start + 1, self.unknown
            for end in range(start + 1, min(start + (longest or self.longest), len(text)) + 1):
                logprob = self.logprobs.get(text[start:end])
                if logprob is not None:
                    yield start, end, logprob

    def viterbi(self, text: str, longest: int | None = None) -> tuple[list[str], float]:
        """The most probable segmentation and its log-probability; pieces longer than `longest` stay out of it.

        In float32, as SentencePiece adds (0.2.3; 0.2.1 rounds later): segmentations often tie, such as "aa"+"a" and
        "a"+"aa", and then rounding decides; where it does not, the piece that starts first."""
        best = array("f", [0.0] + [-math.inf] * len(text) + [0.0])  # by end; the last place only rounds to float32
        came_from = [0] * (len(text) + 1)
        for start, end, logprob in self.edges(text, longest):
            best[-1] = best[start] + logprob
            if best[-1] > best[end]:
                best[end], came_from[end] = best[-1], start
        pieces, end = [], len(text)
        while end:
            pieces.append(text[came_from[end] : end])
            end = came_from[end]
        return pieces[::-1], best[len(text)]

    def expected_counts(self, words: Mapping[str, int]) -> tuple[dict[str, float], float]:
        """E step: how often each piece is expected in the words, and −log P(words) in nats. Forward–backward: an edge
        is used with probability alpha · p · beta / P(word), alpha and beta being all ways to and from it."""
        counts, nats = dict.fromkeys(self.logprobs, 0.0), 0.0
        for word, frequency in words.items():
            edges = list(self.edges(word))
            alpha = sum_paths(edges, 0, len(word))
            beta = sum_paths([(end, start, logprob) for start, end, logprob in reversed(edges)], len(word), len(word))
            nats -= frequency * alpha[-1]
            for start, end, logprob in edges:
                piece = word[start:end]
                if piece in counts:
                    counts[piece] += frequency * math.exp(alpha[start] + logprob + beta[end] - alpha[-1])
        return counts, nats

    def n_best(self, text: str, n: int) -> list[tuple[list[str], float]]:
        """The n most probable segmentations with their log-probabilities, best first; fewer if there are fewer."""
        best = [[(0.0, ())], *([] for _ in text)]  # by end; complete when the first edge starts there
        for start, end, logprob in self.edges(text):
            longer = [(score + logprob, (*pieces, text[start:end])) for score, pieces in best[start]]
            best[end] = heapq.nlargest(n, best[end] + longer)
        return [(list(pieces), score) for score, pieces in best[-1]]

    def sample(self, text: str, alpha: float, generator: random.Random) -> list[str]:
        """One segmentation x with probability ∝ P(x)^alpha: sums forward, draws backward."""
        edges = [(start, end, alpha * logprob) for start, end, logprob in self.edges(text)]
        total, incoming = sum_paths(edges, 0, len(text)), defaultdict(list)
        for start, end, logprob in edges:
            incoming[end].append((start, math.exp(total[start] + logprob - total[end])))
        pieces, end = [], len(text)
        while end:
            starts, probs = zip(*incoming[end], strict=True)
            start = generator.choices(starts, probs)[0]
            pieces.append(text[start:end])
            end = start
        return pieces[::-1]


def sum_paths(edges: Iterable[Edge], origin: int, length: int) -> list[float]:
    """log of the summed probability of all paths from `origin` to each place 0 … length."""
    total = [-math.inf] * (length + 1)
    total[origin] = 0.0
    for here, there, logprob in edges:
        low, high = sorted((total[there], total[here] + logprob))
        total[there] = high + math.log1p(math.exp(low - high))
    return total


def float32(x: float) -> float:
    return array("f", [x])[0]


def common_characters(words: Mapping[str, int]) -> set[str]:
    """The most frequent characters, as many as it takes to make up CHARACTER_COVERAGE of the text; never ▁ itself."""
    counts = Counter()
    for word, frequency in words.items():
        for char in word:
            counts[char] += frequency
    ranked = sorted(counts, key=lambda char: (-counts[char], char))
    enough = CHARACTER_COVERAGE * counts.total()
    before = accumulate((counts[char] for char in ranked), initial=0)
    return {char for char, covered in zip(ranked, before, strict=False) if covered < enough} - {SPACE}


def seed_pieces(words: Mapping[str, int], characters: set[str], n: int) -> dict[str, float]:
    """The characters and, of the longer substrings that occur twice, the n that cover most text; each with its count"""
    counts = Counter()
    for word, frequency in words.items():
        for start in range(len(word)):
            for end in range(start + 1, min(start + MAX_PIECE_LENGTH, len(word)) + 1):
                counts[word[start:end]] += frequency
    longer = ((-count * len(text), text) for text, count in counts.items() if len(text) > 1 < count)
    chosen = [text for _, text in heapq.nsmallest(n, longer) if SPACE not in text]
    return {text: counts[text] for text in sorted(characters) + chosen}


def maximise(counts: Mapping[str, float]) -> PieceModel:
    """M step: p in proportion to the counts."""
    counts = {piece: max(count, MIN_COUNT) for piece, count in counts.items()}
    log_total = math.log(math.fsum(counts.values()))
    return PieceModel({piece: math.log(count) - log_total for piece, count in counts.items()})


def prune(model: PieceModel, counts: Mapping[str, float], keep: set[str], n: int) -> dict[str, float]:
    """The counts of n pieces: those in `keep`, and those that would be missed most."""

    def missed(piece: str) -> float:  # nats lost if every place that holds the piece had to spell it otherwise
        return counts[piece] * (model.logprobs[piece] - model.viterbi(piece, longest=len(piece) - 1)[1])

    ranked = sorted(counts.keys() - keep, key=lambda piece: (missed(piece), piece), reverse=True)
    return {piece: counts[piece] for piece in sorted(keep) + ranked[: n - len(keep)]}


def train_pieces(words: Mapping[str, int], n_pieces: int) -> tuple[PieceModel, list[Round]]:
    """Two EM steps and a pruning in turns, from the seeds to n_pieces, or to all seeds if they are fewer."""
    keep, rounds = common_characters(words), []
    if len(keep) > n_pieces:
        raise ValueError(f"the texts need {len(keep)} pieces for their characters alone, and there is room for "
                         f"{n_pieces}: raise vocab_size by {len(keep) - n_pieces} or more")  # fmt: skip
    counts = seed_pieces(words, keep, SEEDS_PER_PIECE * n_pieces)
    while True:
        counts, _ = maximise(counts).expected_counts(words)
        counts, nats = maximise(counts).expected_counts(words)
        model = maximise(counts)
        rounds.append(Round(len(counts), nats))
        if len(counts) <= n_pieces:
            return model, rounds
        counts = prune(model, counts, keep, max(n_pieces, int(SHRINK * len(counts))))


class Unigram:
    """Pieces as a tokenizer. Lossless: decode(encode(text)) == text, for every text without lone surrogates.

    Equal to SentencePiece with the same pieces and model_type=unigram, byte_fallback, normalization_rule_name=identity,
    remove_extra_whitespaces=False, add_dummy_prefix=False (with True: to encode(" " + text)), no user-defined symbols,
    on text without ▁: `encode_word` of a whole text gives its ids exactly. `encode` does but for ties, because
    SentencePiece adds from the beginning of the text and not of the pre-token, and rounding settles ties."""

    def __init__(self, pieces: Iterable[tuple[str, float]], pattern: str = PATTERN):
        self.pieces = [Piece(text.replace(" ", SPACE), float32(logprob)) for text, logprob in pieces]
        self.pattern, self._compiled = pattern, regex.compile(pattern)
        self.rounds: list[Round] = []  # of training
        logprobs = {text.replace(SPACE, " "): logprob for text, logprob in self.pieces}
        if len(logprobs) < len(self.pieces):
            raise ValueError("two pieces have the same text")
        for text, logprob in logprobs.items():
            if self._compiled.findall(text) != [text]:
                raise ValueError(f"the pattern cuts piece {text!r}; SentencePiece's pieces need pattern=BEFORE_SPACES")
            if not math.isfinite(logprob):
                raise ValueError(f"the log-probability of piece {text!r} is {logprob}")
        self.model = PieceModel(logprobs)
        self._ids = {text: id for id, text in enumerate(logprobs, start=256)}
        self.special_tokens = {name: id for id, name in enumerate(SPECIAL_TOKENS, start=256 + len(logprobs))}
        self.eos_id = self.special_tokens[SPECIAL_TOKENS[0]]
        self._bytes = [bytes([byte]) for byte in range(256)] + [text.encode() for text in (*logprobs, *SPECIAL_TOKENS)]
        self.vocab_size = len(self._bytes)
        self._words: dict[str, tuple[int, ...]] = {}  # memo of encode_word

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Unigram":
        """Learns vocab_size − 256 − 9 pieces; warns, and stops with fewer, when no more substrings occur twice.
        Raises ValueError when there is no room for the characters of the texts."""
        if isinstance(texts, (str, bytes)):
            raise TypeError("texts must be a collection of strings; for one text write Unigram.train([text], ...)")
        n_pieces = vocab_size - 256 - len(SPECIAL_TOKENS)
        if n_pieces < 1:
            raise ValueError(f"vocab_size is {vocab_size}, but bytes, special tokens and a piece need 266")
        words = Counter(word for text in texts for word in regex.findall(PATTERN, checked(text)))
        if not words:
            raise ValueError("there is no text to learn pieces from")
        model, rounds = train_pieces(dict(sorted(words.items())), n_pieces)
        if len(model.logprobs) < n_pieces:
            warnings.warn(f"the texts hold {len(model.logprobs)} of {n_pieces} pieces: train on more", stacklevel=2)
        unigram = cls(sorted(model.logprobs.items(), key=lambda item: (-item[1], item[0])))
        unigram.rounds = rounds
        return unigram

    def pre_tokens(self, text: str) -> list[str]:
        return self._compiled.findall(checked(text))

    def encode_word(self, pre_token: str) -> tuple[int, ...]:
        """Ids of one pre-token, or of a whole text as one lattice. Memoised."""
        ids = self._words.get(pre_token)
        if ids is None:
            ids = self._words[pre_token] = self._to_ids(self.model.viterbi(checked(pre_token))[0])
        return ids

    def encode(self, text: str) -> list[int]:
        """The ids of every pre-token. Names of special tokens in the text are plain text."""
        return [id for word in self.pre_tokens(text) for id in self.encode_word(word)]

    def n_best(self, word: str, n: int) -> list[tuple[tuple[int, ...], float]]:
        """The n most probable segmentations of a word: ids and log-probability, best first."""
        return [(self._to_ids(pieces), logprob) for pieces, logprob in self.model.n_best(checked(word), n)]

    def sample(self, text: str, alpha: float, generator: random.Random) -> list[int]:
        """Subword regularisation: each pre-token as x with probability ∝ P(x)^alpha (0: uniform, ∞: `encode`)."""
        words = (self.model.sample(word, alpha, generator) for word in self.pre_tokens(text))
        return [id for pieces in words for id in self._to_ids(pieces)]

    def _to_ids(self, pieces: list[str]) -> tuple[int, ...]:
        known = ((self._ids[piece],) if piece in self._ids else piece.encode() for piece in pieces)
        return tuple(id for ids in known for id in ids)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of any ids. Raises ValueError on an id out of range."""
        ids = list(ids)
        if not all(0 <= id < self.vocab_size for id in ids):
            raise ValueError(f"token ids are whole numbers from 0 to {self.vocab_size - 1}")
        return b"".join([self._bytes[id] for id in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of any ids; bytes that are not UTF-8, such as half a character, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of all that decides ids."""
        return hashlib.sha256(repr((self.pattern, self.pieces, SPECIAL_TOKENS)).encode()).hexdigest()[:16]


def checked(text: str) -> str:
    if found := regex.search(r"\p{Cs}", text):
        raise ValueError(f"the text holds a lone surrogate, half a character, at position {found.start()}: remove it")
    return text
