"""Tiny Python functions: a signature, a docstring that says what to compute, and a body that does. Some are held out.

A function does one thing, or two ("Double x, then add 3 to it."); its body is one expression or two steps.
"""

from __future__ import annotations

from functools import cache

from .grammar import Grammar, Memory, Option
from .town import held_out

SHARE_HELD_OUT = 0.15
NUMBERS = tuple(range(2, 10))
P_ONE = 0.25  # of the functions that do one thing only

# verb: (imperative on something, ways to write it, priority of the outermost operator: 1 sum, 2 product, 3 call)
VERBS = {
    "add": ("add {k} to {it}", ("{it} + {k}",), 1),
    "subtract": ("subtract {k} from {it}", ("{it} - {k}",), 1),
    "multiply": ("multiply {it} by {k}", ("{it} * {k}",), 2),
    "double": ("double {it}", ("{it} * 2", "2 * {it}"), 2),
    "square": ("square {it}", ("{it} ** 2",), 3),
    "limit": ("limit {it} to {k}", ("min({it}, {k})",), 4),
    "lift": ("lift {it} to at least {k}", ("max({it}, {k})",), 4),
}
STEPS = tuple((verb, k) for verb, (said, _, _) in VERBS.items() for k in (NUMBERS if "{k}" in said else (0,)))


@cache
def programs(split: str) -> dict[tuple[str, ...], tuple]:
    """{verbs: the programs (one or two steps) of a split that do these things in this order}."""
    table: dict = {}
    for program in [(one,) for one in STEPS] + [(one, two) for one in STEPS for two in STEPS]:
        kept = len(program) == 2 and held_out("function", *program, share=SHARE_HELD_OUT)
        if kept == (split == "test"):
            table.setdefault(tuple(verb for verb, _ in program), []).append(program)
    return {verbs: tuple(group) for verbs, group in table.items()}


def docstring(program) -> str:
    """Double x, then add 3 to it."""
    said = [VERBS[verb][0].format(k=k, it="x" if i == 0 else "it") for i, (verb, k) in enumerate(program)]
    text = ", then ".join(said)
    return text[0].upper() + text[1:] + "."


def bodies(program) -> list[str]:
    """Every way in which the town writes a program."""
    (verb, k), *rest = program
    ways = [way.format(it="x", k=k) for way in VERBS[verb][1]]
    if not rest:
        return [f"    return {way}" for way in ways]
    ((then, k2),) = rest
    loose = VERBS[verb][2] < VERBS[then][2] < 4  # x + 3 needs brackets before * 2
    one_line = [f"    return {w2.format(it=f'({w})' if loose else w, k=k2)}" for w in ways for w2 in VERBS[then][1]]
    two_lines = [f"    y = {w}\n    return {w2.format(it='y', k=k2)}" for w in ways for w2 in VERBS[then][1]]
    return one_line + two_lines


def value(program, x: int) -> int:
    """What a program computes: the truth that generated code is checked against."""
    compute = {
        "add": lambda x, k: x + k,
        "subtract": lambda x, k: x - k,
        "multiply": lambda x, k: x * k,
        "double": lambda x, k: 2 * x,
        "square": lambda x, k: x * x,
        "limit": min,
        "lift": max,
    }
    for verb, k in program:
        x = compute[verb](x, k)
    return x


class Function(Grammar):
    def __init__(self, phrases, town, split: str):
        super().__init__("function", phrases, town)
        self.programs = programs(split)
        weight = {verbs: P_ONE if len(verbs) == 1 else 1 - P_ONE for verbs in self.programs}
        present = {len(verbs) for verbs in self.programs}
        n = {length: sum(len(verbs) == length for verbs in self.programs) for length in present}
        scale = sum(P_ONE if length == 1 else 1 - P_ONE for length in present)
        self.shares = {verbs: w / n[len(verbs)] / scale for verbs, w in weight.items()}

    def start(self):
        return Memory(), ((self.say, "define"),)

    def title(self, memory) -> list[Option]:
        """The function's name gives away what it does, but no number."""
        return [(share, ("_then_".join(verbs),), memory.add(verbs=verbs)) for verbs, share in self.shares.items()]

    def docstring(self, memory) -> list[Option]:
        """The program itself is drawn here, number by number."""
        group = self.programs[memory["verbs"]]
        return [(1 / len(group), (docstring(program),), memory.add(program=program)) for program in group]

    def body(self, memory) -> list[Option]:
        ways = bodies(memory["program"])
        return [(1 / len(ways), (way,), memory) for way in ways]
