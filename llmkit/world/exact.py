"""The truth: exact document probabilities and exact next-token distributions of a grammar.

Two computations that share nothing but the grammar, so that each checks the other:

- ``text_logprob`` runs the forward algorithm over characters and sums all derivations of one text.
- ``WordFilter`` turns the grammar into an automaton over *pre-tokens* (the pieces that a tokenizer encodes
  independently of each other): a hypothesis is ``(text said but not yet read, state)``, and ``words`` lists what the
  next pre-token can be, with probabilities and the hypotheses after it. A prefix of token ids is some complete
  pre-tokens and the first ids of one more; the Bayes-optimal next id is a ratio of sums over pre-tokens.

Holds for every lossless, deterministic tokenizer that encodes the matches of a regular expression one by one and whose
matches, all but the last, are settled whatever text follows (llmkit's are).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from .grammar import expand

END = None  # the "word" that ends a document


class ImpossiblePrefix(ValueError):
    """These ids begin no document of the town, so there is no true distribution of what comes next."""


def text_logprob(start: list[tuple[float, tuple]], text: str) -> float:
    """log P(text) in nats, summed over all derivations from weighted start states; -inf for an impossible text."""
    total = -math.inf
    waiting: list[dict] = [{} for _ in range(len(text) + 1)]  # position -> {state: log-probability}
    waiting[0] = {state: math.log(p) for p, state in start}
    for position, states in enumerate(waiting):
        while states:
            state, logp = states.popitem()
            said, choice = expand(state)
            if not text.startswith(said, position):
                continue
            end = position + len(said)
            if choice is None:
                if end == len(text):
                    total = log_add(total, logp)
                continue
            there = waiting[end]
            for p, after in choice:
                first = after[1][0] if after[1] else None
                if isinstance(first, str) and not text.startswith(first, end):
                    continue  # most of fifty names: dropped before they cost anything
                new = logp + math.log(p)
                there[after] = log_add(there[after], new) if after in there else new
    return total


def log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))"""
    a, b = max(a, b), min(a, b)
    return a + math.log1p(math.exp(b - a)) if b > -math.inf else a


class WordFilter:
    """Bayesian filtering of a grammar over the pre-tokens of one tokenizer.

    A *frontier* is the posterior over hypotheses once some pre-tokens are settled: {hypothesis: probability}.
    """

    def __init__(self, start: list[tuple[float, tuple]], tokenizer):
        self.tokenizer = tokenizer
        self.start = {("", state): p for p, state in start}
        self.words = lru_cache(maxsize=30_000)(self._words)
        self.frontier = lru_cache(maxsize=1_000)(self._frontier)
        self.next_words = lru_cache(maxsize=1_000)(self._next_words)

    def _words(self, hypothesis) -> dict:
        """What one hypothesis expects: {next pre-token, or END: {hypothesis after it: probability}}."""
        out: dict = {}
        unsettled = [(1.0, *hypothesis)]
        while unsettled:
            p, text, state = unsettled.pop()
            pieces = self.tokenizer.pre_tokens(text)
            if len(pieces) > 1 or (pieces and state is None):
                word, after = pieces[0], (text[len(pieces[0]) :], state)
            elif state is None:
                word, after = END, None
            else:  # let the grammar say more
                said, choice = expand(state)
                branches = ((1.0, None),) if choice is None else choice
                unsettled.extend((p * q, text + said, branch) for q, branch in branches)
                continue
            there = out.setdefault(word, {})
            there[after] = there.get(after, 0.0) + p
        return out

    def _frontier(self, settled: tuple[str, ...]) -> dict:
        """The posterior after these pre-tokens; empty when no document begins with them."""
        if not settled:
            return self.start
        out: dict = {}
        for hypothesis, p in self.frontier(settled[:-1]).items():
            for after, q in self.words(hypothesis).get(settled[-1], {}).items():
                out[after] = out.get(after, 0.0) + p * q
        total = math.fsum(out.values())
        return {hypothesis: p / total for hypothesis, p in out.items()}

    def _next_words(self, settled: tuple[str, ...]) -> dict:
        """{ids of the next pre-token (eos for the end): (pre-token, probability)}."""
        probs: dict = {}
        for hypothesis, p in self.frontier(settled).items():
            for word, after in self.words(hypothesis).items():
                probs[word] = probs.get(word, 0.0) + p * math.fsum(after.values())
        spell = self.tokenizer.encode_word
        return {(self.tokenizer.eos_id,) if word is END else spell(word): (word, p) for word, p in probs.items()}

    def next_ids(self, settled: tuple[str, ...], tail: tuple[int, ...]) -> tuple[dict[int, float], float]:
        """({next id: mass}, its sum) after settled pre-tokens and the ids `tail`, whose pre-tokens are not settled."""
        out: dict[int, float] = {}
        total = 0.0
        for ids, (word, p) in self.next_words(settled).items():
            if len(ids) > len(tail):
                if ids[: len(tail)] == tail:
                    out[ids[len(tail)]] = out.get(ids[len(tail)], 0.0) + p
                    total += p
            elif tail[: len(ids)] == ids:  # this pre-token is complete: go on with the one after it
                after, mass = self.next_ids((*settled, word), tail[len(ids) :])
                total += p * mass
                for i, q in after.items():
                    out[i] = out.get(i, 0.0) + p * q
        return out, total

    def settle(self, settled: tuple[str, ...], tail: tuple[int, ...]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Move every pre-token of the tail that no continuation can change to the settled ones."""
        text = self.tokenizer.decode_bytes(tail).decode("utf-8", errors="ignore")
        for word in self.tokenizer.pre_tokens(text)[:-1]:
            ids = self.tokenizer.encode_word(word)
            if tail[: len(ids)] != ids:
                raise ImpossiblePrefix(f"the ids of {text!r} are not the ones its own tokenizer gives")
            settled, tail = (*settled, word), tail[len(ids) :]
        return settled, tail

    def next_token_probs(self, ids) -> np.ndarray:
        """(V,) float64: P(next id | these ids begin the document), eos for its end. Raises ImpossiblePrefix."""
        mass, total = self.next_ids(*self.settle((), tuple(ids)))
        if not total > 0:
            raise ImpossiblePrefix(f"no document of the town begins with {self.tokenizer.decode(ids)!r}")
        probs = np.zeros(self.tokenizer.vocab_size)
        probs[list(mass)] = list(mass.values())
        return probs / total

    def token_nats(self, ids) -> np.ndarray:
        """(T,) nats of each id of one document given those before it; at the first impossible id inf, after it nan."""
        nats = np.full(len(ids), np.nan)
        settled, tail = (), ()
        for t, i in enumerate(ids):
            mass, total = self.next_ids(settled, tail)
            if not mass.get(i, 0.0) > 0:
                nats[t] = np.inf
                break
            nats[t] = math.log(total / mass[i])
            if i != self.tokenizer.eos_id:
                settled, tail = self.settle(settled, (*tail, i))
        return nats
