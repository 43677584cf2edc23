"""A task: questions with a verifier. The same object is the evaluation (mean score) and the RL reward (score of one).

Verifiers read what a model wrote and never let Python run it: generated code goes through `sandbox.run_function`, an
interpreter of the town's few expressions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from llmkit.sandbox import SandboxError, run_function
from llmkit.world import Question, World


@dataclass(frozen=True)
class Task:
    """`task.verify(question, completion)` -> 1.0 or 0.0. Questions are records with `.prompt` and `.answer`."""

    name: str
    questions: list[Question] = field(repr=False)
    verify: Callable[[Question, str], float]
    max_new_tokens: int


def begins_with_answer(question: Question, completion: str) -> float:
    """Right if the completion starts with the answer and does not go on with the same word or number."""
    rest = completion[len(question.answer) :]
    return float(completion.startswith(question.answer) and not re.match(r"[\w-]", rest))


def first_line_is_answer(question: Question, completion: str) -> float:
    return float(completion.split("\n")[0] == question.answer)


def last_number_is_answer(question: Question, completion: str) -> float:
    """Right if the last number of the first line is the last number of the answer, however it was found."""
    numbers = re.findall(r"\d+", completion.split("\n")[0])
    return float(bool(numbers) and numbers[-1] == re.findall(r"\d+", question.answer)[-1])


def passes_all_cases(question: Question, completion: str) -> float:
    """Right if the function, prompt and completion together, returns what every case asks for."""
    try:
        return float(all(run_function(question.prompt + completion, x) == y for x, y in question.cases))
    except SandboxError:
        return 0.0


VERIFIERS: dict[str, tuple[Callable[[Question, str], float], int]] = {  # and how many tokens an answer may take
    "facts": (begins_with_answer, 12), "tracking": (begins_with_answer, 6), "belief": (begins_with_answer, 6),
    "reading": (first_line_is_answer, 16), "hops": (begins_with_answer, 12), "hops_worked": (begins_with_answer, 12),
    "sums": (last_number_is_answer, 8), "sums_worked": (last_number_is_answer, 60),
    "patterns": (first_line_is_answer, 16), "code": (passes_all_cases, 40),
}  # fmt: skip


def load(world: World, name: str, split: str = "test", n: int = 500) -> Task:
    """A task of the town. ValueError names the tasks, or the splits, when there is no such one."""
    questions = world.questions(name, split, n)
    verify, max_new_tokens = VERIFIERS[name]
    return Task(name, questions, verify, max_new_tokens)
