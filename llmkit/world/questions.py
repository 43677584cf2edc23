"""Questions about the town whose answers are known: plain records, the raw material of `llmkit.tasks`."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    task: str
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()


TASKS = {}
