"""Sums of two numbers, told at once or worked out, and of three to five digits, worked out. Some are held out."""

from __future__ import annotations

from functools import cache

from .grammar import Grammar, Option
from .town import held_out

SHARE_HELD_OUT = 0.1
NUMBERS, DIGITS = tuple(range(10, 100)), tuple(range(1, 10))
N_TERMS = (3, 4, 5)


@cache
def seconds(first: int, numbers: tuple[int, ...], split: str) -> tuple[int, ...]:
    """The numbers that may follow a first summand in a split."""
    return tuple(n for n in numbers if held_out("sum", first, n, share=SHARE_HELD_OUT) == (split == "test"))


@cache
def firsts(numbers: tuple[int, ...], split: str) -> tuple[int, ...]:
    return tuple(n for n in numbers if seconds(n, numbers, split))


def worked_pair(a: int, b: int) -> str:
    """7 + 8 = 15, 40 + 30 = 70, 70 + 15 = 85 (for 47 + 38)"""
    ones, tens = a % 10 + b % 10, a // 10 * 10 + b // 10 * 10
    return f"{a % 10} + {b % 10} = {ones}, {a // 10 * 10} + {b // 10 * 10} = {tens}, {tens} + {ones} = {a + b}"


def worked_terms(terms: tuple[int, ...]) -> str:
    """4 + 9 = 13, 13 + 5 = 18 (for 4 + 9 + 5)"""
    steps, total = [], terms[0]
    for term in terms[1:]:
        steps.append(f"{total} + {term} = {total + term}")
        total += term
    return ", ".join(steps)


class Sums(Grammar):
    def __init__(self, phrases, town, split: str):
        super().__init__("sums", phrases, town)
        self.split = split

    def pair(self, memory) -> list[Option]:
        """`a + b` with two digits each."""
        return self._first(memory, NUMBERS, 2)

    def terms(self, memory) -> list[Option]:
        """Three to five digits; how many is drawn at once, for it decides which sign follows."""
        return [
            (p / len(N_TERMS), symbols, after) for n in N_TERMS for p, symbols, after in self._first(memory, DIGITS, n)
        ]

    def _first(self, memory, numbers, n) -> list[Option]:
        choices = firsts(numbers, self.split)
        return [
            (1 / len(choices), (f"{a} +", (self._next,)), memory.add(terms=(a,), n=n, numbers=numbers)) for a in choices
        ]

    def _next(self, memory) -> list[Option]:
        terms, n, numbers = memory["terms"], memory["n"], memory["numbers"]
        choices = seconds(terms[0], numbers, self.split) if len(terms) == 1 else numbers
        more = (" +", (self._next,)) if len(terms) + 1 < n else ()
        return [(1 / len(choices), (f" {b}", *more), memory.add(terms=(*terms, b))) for b in choices]

    def total(self, memory) -> list[Option]:
        return [(1.0, (f"{sum(memory['terms'])}",), memory)]

    def worked(self, memory) -> list[Option]:
        terms = memory["terms"]
        steps = worked_pair(*terms) if memory["numbers"] == NUMBERS else worked_terms(terms)
        return [(1.0, (steps,), memory)]
