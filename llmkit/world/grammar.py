"""A grammar with a memory: how every document of the town comes into being.

A *state* is what has been drawn so far (a ``Memory``) and the symbols still to be said. A symbol is a literal string
or a rule, ``(method, *arguments)``; a rule looks at the memory and answers with weighted options, each a tuple of
symbols and the memory after it. Expanding always takes the leftmost symbol, so a latent (a name, a number, a rule of
a pattern) is drawn exactly where its text first appears. That is what keeps the number of hypotheses about a prefix
small, and so the truth computable (``exact.py``).

Templates are strings with slots: ``"{A} gave the {thing} to {B}."`` A slot names, in this order of search, a method of
the grammar (``{he:A}`` calls ``he(memory, "A")``), a person (one capital letter), a list of phrases of the same kind,
or a word list of the town (``{thing2}`` draws a second, different thing). ``"[3] text"`` weighs a phrase three times.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

SLOT = re.compile(r"\{([^{}]*)\}")
WEIGHT = re.compile(r"\[(\d+)\] ")


class Memory(dict):
    """What a document has settled so far. Never changed in place: ``memory.add(A="Ada")`` gives the next one."""

    __slots__ = ("_hash",)

    def add(self, **drawn) -> Memory:
        return Memory(self, **drawn)

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            self._hash = hash(frozenset(self.items()))
            return self._hash


Option = tuple[float, tuple, Memory]  # probability, symbols to say, memory from then on


def uniform(memory: Memory, alternatives) -> list[Option]:
    """Each of some tuples of symbols with the same probability, nothing remembered."""
    return [(1.0 / len(alternatives), symbols, memory) for symbols in alternatives]


class Grammar:
    """One kind of document: phrases (templates from the town's file) and rules, the methods of a subclass."""

    def __init__(self, kind: str, phrases: dict[str, list[str]], town):
        self.kind, self.town = kind, town
        self.names = set(phrases)
        self.phrases = {key: self._compile_all(key, templates) for key, templates in phrases.items()}

    def start(self) -> tuple:
        return Memory(), ((self.say, "start"),)

    # -- templates ----------------------------------------
    def _compile_all(self, key: str, templates: list[str]) -> list[tuple[float, tuple]]:
        weights = [int(m[1]) if (m := WEIGHT.match(t)) else 1 for t in templates]
        return [
            (w / sum(weights), self.compile(WEIGHT.sub("", t, count=1), f"[{self.kind}] {key}"))
            for w, t in zip(weights, templates, strict=True)
        ]

    def compile(self, template: str, where: str = "") -> tuple:
        """A template as symbols: its literal strings and a rule for each slot."""
        parts = SLOT.split(template)
        return tuple(self._slot(part, where) if i % 2 else part for i, part in enumerate(parts) if part)

    def _slot(self, slot: str, where: str) -> tuple:
        name, _, argument = slot.partition(":")
        arguments = argument.split(",") if argument else ()
        if name and not name.startswith("_") and callable(getattr(type(self), name, None)):
            return (getattr(self, name), *arguments)
        if len(name) == 1 and name.isupper():
            return (self.person, name)
        if name in self.names:
            return (self.say, name)
        if name.rstrip("0123456789") in self.town.words:
            return (self.word, name)
        raise ValueError(f"{where}: the slot {{{slot}}} is neither a rule, a phrase list of this kind nor a word list")

    # -- rules every kind has ----------------------------------------
    def say(self, memory: Memory, key: str) -> list[Option]:
        """One phrase of a list."""
        return [(p, symbols, memory) for p, symbols in self.phrases[key]]

    def word(self, memory: Memory, name: str) -> list[Option]:
        """A word of the town's list `name` (digits stripped); drawn at its first use, different from its siblings."""
        return self._draw(memory, name, self.town.words[name.rstrip("0123456789")])

    def person(self, memory: Memory, letter: str) -> list[Option]:
        """The first name of person A, B, …; drawn at its first use, different from everybody else in the document."""
        return self._draw(memory, letter, self.town.first_names)

    def _draw(self, memory: Memory, name: str, values) -> list[Option]:
        if name in memory:
            return [(1.0, (memory[name],), memory)]
        taken = set(memory.values())
        free = [v for v in values if v not in taken]
        return [(1.0 / len(free), (v, (self.remember, name, v)), memory) for v in free]

    def remember(self, memory: Memory, name: str, value) -> list[Option]:
        """Says nothing. A draw puts this after the word, so that a word that does not fit costs no new memory."""
        return [(1.0, (), Memory(memory, **{name: value}))]

    def a(self, memory: Memory, name: str) -> list[Option]:
        """A word with its article: "a lamp", "an apple"."""
        return [
            (p, (("an " if said[0][0] in "aeiou" else "a "), *said), after)
            for p, said, after in self.word(memory, name)
        ]

    def he(self, memory, letter):
        return self._pronoun(memory, letter, 0)

    def him(self, memory, letter):
        return self._pronoun(memory, letter, 1)

    def his(self, memory, letter):
        return self._pronoun(memory, letter, 2)

    def He(self, memory, letter):  # noqa: N802 (a slot's name: the pronoun at the start of a sentence)
        return self._pronoun(memory, letter, 3)

    def His(self, memory, letter):  # noqa: N802
        return self._pronoun(memory, letter, 4)

    def _pronoun(self, memory, letter, form) -> list[Option]:
        return [(1.0, (self.town.pronouns[memory[letter]][form],), memory)]


def expand(state: tuple) -> tuple[str, list[tuple[float, tuple]] | None]:
    """Say what is certain: the text up to the next choice, and the choice's (probability, state) pairs.

    At the end of the document the choice is None.
    """
    memory, symbols = state
    said = []
    while symbols:
        head, symbols = symbols[0], symbols[1:]
        if head.__class__ is str:
            said.append(head)
            continue
        options = head[0](memory, *head[1:])
        if len(options) > 1:
            return "".join(said), [(p, (after, new + symbols)) for p, new, after in options]
        _, new, memory = options[0]
        symbols = new + symbols
    return "".join(said), None


def sample(state: tuple, rng: random.Random) -> str:
    """One document."""
    said = []
    while True:
        text, choice = expand(state)
        said.append(text)
        if choice is None:
            return "".join(said)
        u = rng.random()
        for p, state in choice:  # noqa: B007 (the state chosen is used in the next round)
            u -= p
            if u < 0:
                break


def enumerate_documents(state: tuple, p: float = 1.0) -> Iterator[tuple[float, str]]:
    """Every derivation of a (small!) grammar: (probability, text). One text may come several times."""
    text, choice = expand(state)
    if choice is None:
        yield p, text
        return
    for q, after in choice:
        for r, rest in enumerate_documents(after, p * q):
            yield r, text + rest
