"""A town whose every probability is known: the course's default corpus.

``World(seed)`` writes documents of seven kinds (stories, biographies, passages with questions, two-hop facts, sums,
patterns, tiny functions) and knows, for each text, its exact probability, and after each prefix the exact distribution
of the next token. P is always the training mixture of the kinds asked for, or with split="test" the mixture of what
is held out of training (sums, patterns, functions, two-hop facts; the other kinds are the same in both).

All probabilities are of whole documents; one document ends with the tokenizer's end-of-text token.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from .exact import ImpossiblePrefix, WordFilter, text_logprob
from .functions import Function
from .grammar import sample
from .pattern import Pattern
from .people import Biography, Hops, Passage, StrangersBiography
from .questions import TASKS, Question
from .story import Story
from .sums import Sums
from .town import Resident, Town

__all__ = ["KINDS", "MIX", "Document", "ImpossiblePrefix", "Question", "Resident", "TASKS", "World"]

# documents of each kind among 100; stories are longer, so that they hold over 40 % of the tokens
MIX = {"story": 36, "bio": 26, "passage": 8, "hops": 5, "sums": 12, "pattern": 7, "function": 6}
KINDS = tuple(MIX)
SPLITS = ("train", "test")
VERSION = 1


@dataclass(frozen=True)
class Document:
    """One text of the town; `nats` is -log P(text), its end included, under the kinds and split it was drawn from."""

    text: str
    kind: str
    source: World
    kinds: tuple[str, ...] | None
    split: str

    @cached_property
    def nats(self) -> float:
        return self.source.nats(self.text, self.kinds, self.split)


class World:
    """A town from a seed and a file of words (default: Hollowmere). Equal seeds and files give equal worlds everywhere.

    stranger=True gives the same language without the knowledge: biographies as they look to a reader who knows nobody.
    """

    def __init__(self, seed: int = 0, town: str | Path | None = None, stranger: bool = False):
        self.seed = seed
        self.town = Town(seed, Path(town) if town else Path(__file__).parent / "hollowmere.toml")
        phrases = self.town.phrases
        known = self.town.residents["known"]
        self.hops_held_out = Hops.SHARE_HELD_OUT
        biography = StrangersBiography if stranger else Biography
        self.grammars = {
            split: {
                "story": Story("story", phrases["story"], self.town),
                "bio": biography(phrases["bio"], self.town, known),
                "passage": Passage(phrases["passage"], phrases["bio"], self.town),
                "hops": Hops(phrases["hops"], self.town, split),
                "sums": Sums(phrases["sums"], self.town, split),
                "pattern": Pattern(phrases["pattern"], self.town, split),
                "function": Function(phrases["function"], self.town, split),
            }
            for split in SPLITS
        }
        self._filter = lru_cache(maxsize=8)(self._make_filter)

    @cached_property
    def fingerprint(self) -> str:
        """Names the distribution: changes with the seed, the town's file, the mix and the rules (VERSION)."""
        return hashlib.sha256(repr((VERSION, self.town.fingerprint, sorted(MIX.items()))).encode()).hexdigest()[:16]

    # -- texts ----------------------------------------
    def documents(self, n: int, seed: int, kinds: Sequence[str] | None = None, split: str = "train") -> list[Document]:
        """`n` independent documents of P; the same seed gives the same documents on every machine."""
        names, weights = zip(*self._shares(kinds, split), strict=True)
        rng = random.Random(f"{self.seed} documents {seed}")
        chosen = rng.choices(names, weights, k=n)
        key = tuple(kinds) if kinds else None
        return [Document(sample(self.grammars[split][kind].start(), rng), kind, self, key, split) for kind in chosen]

    def questions(self, task: str, split: str = "test", n: int = 500) -> list[Question]:
        """Up to n questions with known answers, always the same; `questions.TASKS` has tasks and splits."""
        if task not in TASKS:
            raise ValueError(f"no task {task!r}; there are {', '.join(TASKS)}")
        return TASKS[task](self, split, n)

    # -- the truth ----------------------------------------
    def nats(self, text: str, kinds: Sequence[str] | None = None, split: str = "train") -> float:
        """-log P(text) in nats, summed over all derivations; inf for a text that the town cannot write."""
        return -text_logprob(self._start(kinds, split), text)

    def next_token_probs(
        self, prefix_ids, tokenizer, kinds: Sequence[str] | None = None, split: str = "train"
    ) -> np.ndarray:
        """(V,) float64: the exact distribution of the next id after those since the last eos. Or ImpossiblePrefix."""
        ids = [int(i) for i in prefix_ids]
        since = len(ids) - 1 - ids[::-1].index(tokenizer.eos_id) if tokenizer.eos_id in ids else -1
        return self._filter(tokenizer, tuple(kinds) if kinds else None, split).next_token_probs(ids[since + 1 :])

    def token_nats(self, ids, tokenizer, kinds: Sequence[str] | None = None, split: str = "train") -> np.ndarray:
        """(T,) nats of each id given the ids before it in its document; eos ends a document, and the next one begins.

        An id that the town cannot write costs inf; what follows it in the same document is nan.
        """
        word_filter = self._filter(tokenizer, tuple(kinds) if kinds else None, split)
        ids = [int(i) for i in ids]
        nats, begin = [], 0
        for end in [t + 1 for t, i in enumerate(ids) if i == tokenizer.eos_id] + [len(ids)]:
            nats.append(word_filter.token_nats(ids[begin:end]))
            begin = end
        return np.concatenate(nats)

    # -- inside ----------------------------------------
    def _shares(self, kinds, split) -> list[tuple[str, float]]:
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
        unknown = set(kinds or ()) - set(KINDS)
        if unknown:
            raise ValueError(f"no kinds {sorted(unknown)}; there are {', '.join(KINDS)}")
        chosen = [kind for kind in KINDS if kinds is None or kind in kinds]
        total = sum(MIX[kind] for kind in chosen)
        return [(kind, MIX[kind] / total) for kind in chosen]

    def _start(self, kinds, split) -> list[tuple[float, tuple]]:
        return [(share, self.grammars[split][kind].start()) for kind, share in self._shares(kinds, split)]

    def _make_filter(self, tokenizer, kinds, split) -> WordFilter:
        return WordFilter(self._start(kinds, split), tokenizer)
