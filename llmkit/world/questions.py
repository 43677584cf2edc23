"""Questions about the town whose answers are known: plain records, the raw material of `llmkit.tasks`.

Every prompt is the beginning of a document that the town could have written, cut where the answer is certain (or, for
residents outside the training mixture and held-out rules, would be certain if they were in it). The answer is the text
that follows, its leading space included.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from . import functions, pattern, sums
from .grammar import sample
from .town import ATTRIBUTES, held_out

ASKED = {  # attribute: the beginning of a sentence that only this fact can complete
    "home": "{name} lives on", "job": "{name} works as", "pet": "{name} keeps", "food": "{name} loves to eat",
    "instrument": "{name} is learning to play", "friend": "{name} is a good friend of",
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A prompt and its answer; `choices` for multiple choice (the answer is one), `cases` (input, output) for code."""

    task: str
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    cases: tuple[tuple[int, int], ...] = ()


def facts(world, split: str, n: int) -> list[Question]:
    """What is known of residents; splits: train (known), sft and test (never mentioned in training)."""
    groups = {"train": "known", "sft": "sft", "test": "test"}
    values = world.town.fact_values
    asked = []
    for resident in _choose(world.town.residents, groups, split):
        for attribute in ATTRIBUTES:
            among = (
                values[attribute] if attribute != "friend" else [r.name for r in world.town.residents[groups[split]]]
            )
            choices = tuple(f" {value}" for value in among)
            asked.append(
                Question("facts", ASKED[attribute].format(name=resident.name), f" {resident.fact(attribute)}", choices)
            )
    return _some(asked, n, "facts")


def hops(world, split: str, n: int) -> list[Question]:
    """A fact about somebody's best friend, told at once; splits: train, test (residents held out of such texts)."""
    return _hops(world, split, n, "hops", "The best friend of {name} {has}")


def hops_worked(world, split: str, n: int) -> list[Question]:
    """The same, with the friend named first: the model has to take the second step only."""
    return _hops(world, split, n, "hops_worked", "The best friend of {name} is {friend}. {friend} {has}")


def _hops(world, split, n, task, form) -> list[Question]:
    has = {"home": "lives on", "job": "works as", "pet": "has", "food": "likes", "instrument": "plays"}
    asked = []
    for resident in world.town.residents["known"]:
        if held_out("hops", resident.name, share=world.hops_held_out) != _is_test(split):
            continue
        friend = world.town.by_name[resident.fact("friend")]
        for attribute, verb in has.items():
            prompt = form.format(name=resident.name, friend=friend.name, has=verb)
            choices = tuple(f" {value}" for value in world.town.fact_values[attribute])
            asked.append(Question(task, prompt, f" {friend.fact(attribute)}", choices))
    return _some(asked, n, task)


def tracking(world, split: str, n: int) -> list[Question]:
    """Who has the thing at the end of a story in which it changed hands."""
    ending = re.compile(r"(.*In the end, the [a-z]+ belonged to)( \w+)\.", re.DOTALL)
    chosen = []
    for text in _texts(world, "story", "tracking", split):
        match = ending.match(text)
        if match:
            present = sorted({name for name in re.findall(r"\b[A-Z][a-z]+", match[1]) if name in world.town.pronouns})
            if len(present) >= 3:
                chosen.append(Question("tracking", match[1], match[2], tuple(f" {name}" for name in present)))
        if len(chosen) == n:
            return chosen


def belief(world, split: str, n: int) -> list[Question]:
    """Where somebody will look for a thing that was moved while they were away, seen or unseen."""
    looking = re.compile(r"(.*(?:came back|needed the).* looked in the)( [a-z]+), (?:but|and)", re.DOTALL)
    chosen = []
    for text in _texts(world, "story", "belief", split):
        match = looking.match(text)
        if match and match[1].count("looked in the") == 1:
            boxes = sorted({word for word in re.findall(r"[a-z]+", match[1]) if word in world.town.words["box"]})
            if len(boxes) == 2:
                chosen.append(Question("belief", match[1], match[2], tuple(f" {box}" for box in boxes)))
        if len(chosen) == n:
            return chosen


def reading(world, split: str, n: int) -> list[Question]:
    """A question about a passage on strangers; the last question of the passage is asked."""
    chosen = []
    for text in _texts(world, "passage", "reading", split):
        prompt, _, answer = text.rpartition("\nAnswer: ")
        chosen.append(Question("reading", prompt + "\nAnswer:", f" {answer}"))
        if len(chosen) == n:
            return chosen


def sums_plain(world, split: str, n: int) -> list[Question]:
    """Sums of two two-digit numbers, the total at once; splits: train, test (pairs held out)."""
    return [Question("sums", f"{a} + {b} =", f" {a + b}") for a, b in _pairs(split, n)]


def sums_worked(world, split: str, n: int) -> list[Question]:
    """The same sums, worked out: the total is the last number."""
    return [Question("sums_worked", f"{a} + {b}:", f" {sums.worked_pair(a, b)}") for a, b in _pairs(split, n)]


def patterns(world, split: str, n: int) -> list[Question]:
    """The last of six lines that follow one rule; splits: train, test (rules held out). Fewer lines, fewer shots."""
    chosen = []
    for text in _texts(world, "pattern", "patterns", split, split):
        lines = text.split("\n")
        if len(lines) == pattern.N_LINES[1]:
            last, _, answer = lines[-1].rpartition(" ->")
            chosen.append(Question("patterns", "\n".join([*lines[:-1], f"{last} ->"]), answer))
        if len(chosen) == n:
            return chosen


def code(world, split: str, n: int) -> list[Question]:
    """A signature and a docstring; the body is checked by running it. Splits: train, test (programs held out).

    The prompt ends before the line break: the tokenizer joins it to the indentation that follows.
    """
    programs = [p for group in functions.programs(_split(split)).values() for p in group]
    asked = []
    for program in programs:
        title = "_then_".join(verb for verb, _ in program)
        prompt = f'def {title}(x):\n    """{functions.docstring(program)}"""'
        cases = tuple((x, functions.value(program, x)) for x in (-4, 0, 1, 3, 6, 11))
        asked.append(Question("code", prompt, f"\n{functions.bodies(program)[0]}", cases=cases))
    return _some(asked, n, "code")


TASKS = {
    "facts": facts, "tracking": tracking, "belief": belief, "reading": reading, "hops": hops,
    "hops_worked": hops_worked, "sums": sums_plain, "sums_worked": sums_worked, "patterns": patterns, "code": code,
}  # fmt: skip


# -- helpers ----------------------------------------
def _split(split: str) -> str:
    if split not in ("train", "test"):
        raise ValueError(f"no split {split!r} of this task; there are train, test")
    return split


def _is_test(split: str) -> bool:
    return _split(split) == "test"


def _choose(table, names, split):
    if split not in names:
        raise ValueError(f"no split {split!r} of this task; there are {', '.join(names)}")
    return table[names[split]]


def _some(asked: list[Question], n: int, task: str) -> list[Question]:
    """At most n questions, in an order that does not follow the alphabet of anything."""
    return random.Random(f"order of {task}").sample(asked, min(n, len(asked)))


def _texts(world, kind, task, split, part="train"):
    """Endless documents that no training seed draws (training documents come from `World.documents`)."""
    rng = random.Random(f"{world.seed} questions {task} {_split(split)}")
    while True:
        yield sample(world.grammars[part][kind].start(), rng)


def _pairs(split, n) -> list[tuple[int, int]]:
    pairs = [(a, b) for a in sums.firsts(sums.NUMBERS, _split(split)) for b in sums.seconds(a, sums.NUMBERS, split)]
    return random.Random(f"sums {split}").sample(pairs, min(n, len(pairs)))
