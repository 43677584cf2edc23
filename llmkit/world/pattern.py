"""Worked patterns: every line of a document follows one hidden rule, which a reader has to infer from the lines before.

A line names an animal, a colour and a fruit in some order; the rule picks one, two or all three of them, either by
place ("the third, then the first") or by meaning ("the fruit, then the animal"). One line often fits a rule of both
sorts, two seldom do: the Bayes-optimal reader grows surer with every line, and so does a good model. Some rules never
occur in training.
"""

from __future__ import annotations

from itertools import permutations

from .grammar import Grammar, Memory, Option
from .town import held_out

PLACES, MEANINGS = ("first", "second", "third"), ("animal", "colour", "fruit")
N_LINES = (3, 6)
SHARE_HELD_OUT = 0.25
RULES = tuple(rule for selectors in (PLACES, MEANINGS) for n in (1, 2, 3) for rule in permutations(selectors, n))


def is_held_out(rule: tuple[str, ...]) -> bool:
    """Some rules of two and three words are for testing only; those of one word are always in training."""
    return len(rule) > 1 and held_out("rule", *rule, share=SHARE_HELD_OUT)


def apply(rule: tuple[str, ...], order: tuple[str, ...], words: tuple[str, ...]) -> str:
    """The output line: `order` says which meaning each of the three words has."""
    return " ".join(words[(PLACES if selector in PLACES else order).index(selector)] for selector in rule)


class Pattern(Grammar):
    def __init__(self, phrases, town, split: str):
        super().__init__("pattern", phrases, town)
        self.rules = tuple(rule for rule in RULES if is_held_out(rule) == (split == "test"))
        self.orders = tuple(permutations(MEANINGS))

    def start(self):
        return Memory(n=0), ((self._line,),)

    def _line(self, memory) -> list[Option]:
        return [(1.0, ((self.say, "line"), (self._more,)), Memory(memory, n=memory["n"] + 1))]

    def _more(self, memory) -> list[Option]:
        kept = Memory(n=memory["n"], rule=memory["rule"])
        if memory["n"] < N_LINES[0]:
            return [(1.0, ("\n", (self._line,)), kept)]
        p_stop = 1 / (N_LINES[1] - memory["n"] + 1)  # every number of lines is equally likely
        return [option for option in ((p_stop, (), memory), (1 - p_stop, ("\n", (self._line,)), kept)) if option[0] > 0]

    def input(self, memory) -> list[Option]:
        """Three words of different meanings, in any order, drawn word by word."""
        return [
            (
                1.0,
                ((self._next_word,), " ", (self._next_word,), " ", (self._next_word,)),
                memory.add(order=(), words=()),
            )
        ]

    def _next_word(self, memory) -> list[Option]:
        left = [m for m in MEANINGS if m not in memory["order"]]
        return [
            (
                1 / len(left) / len(self.town.words[m]),
                (word,),
                memory.add(order=(*memory["order"], m), words=(*memory["words"], word)),
            )
            for m in left
            for word in self.town.words[m]
        ]

    def output(self, memory) -> list[Option]:
        """What the rule makes of the line; the rule itself is drawn at the first output."""
        rules = (memory["rule"],) if "rule" in memory else self.rules
        return [
            (1 / len(rules), (apply(rule, memory["order"], memory["words"]),), memory.add(rule=rule)) for rule in rules
        ]
