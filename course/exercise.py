"""Exercises that answer back: check("start.text_nats", fn), hint("start.text_nats"), solution("start.text_nats").

Everything is plain text, and nothing raises because of what a learner wrote: a lesson runs to its end with no exercise
done. The exercises of a lesson stand in course/exercises/<lesson>.py; course/progress.py remembers what is done.
"""

import difflib
import importlib
import inspect
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from course import progress
from course.answer import Answer, Unwritten, Wrong, describe

COURSE = Path(__file__).parent
WIDTH = 100
_hints_shown: Counter[str] = Counter()  # in this session: running a whole lesson again begins with the first hints


@dataclass(frozen=True)
class Exercise:
    """One exercise. Its name is that of its solution, a function that passes the check and whose source is shown.

    `check` gets an Answer, calls it, and raises Wrong, with a message that names the mistake. Each of `wrong` is a
    plausible answer with words that this message must contain.
    """

    solution: Callable
    statement: str
    difficulty: int  # 1 to 3
    check: Callable[[Answer], None]
    hints: tuple[str, str, str]
    wrong: tuple[tuple[Callable, str], ...]

    @property
    def name(self) -> str:
        return self.solution.__name__

    @property
    def parameters(self) -> list[str]:
        return list(inspect.signature(self.solution).parameters)


@dataclass(frozen=True)
class Verdict:
    """`passed`; `begun` is False as long as the body is only `...`; `message` is empty when passed."""

    passed: bool
    message: str = ""
    begun: bool = True
    printed: str = ""


# ---- what a lesson calls ----


def check(name: str, fn: Callable | None = None) -> None:
    """Say whether a function solves an exercise, or what is wrong with it. Without a function: the exercise itself."""
    exercise = find(name)
    if fn is None:
        print(_stated(name, exercise))
        return
    verdict = judge(exercise, fn)
    if verdict.printed:
        print("Your function printed:", textwrap.indent(verdict.printed.rstrip(), "  "), "", sep="\n")
    if not verdict.begun:
        print(f"○ {name}: not written yet. Put your code in place of the dots; hint({name!r}) helps.")
        return
    print(f"✓ {name}: right." if verdict.passed else _wrap(f"✗ {name}: {verdict.message}"))
    progress.record_check(name, verdict.passed)


def hint(name: str) -> None:
    """Show the first hint; with each further call one more, up to three."""
    exercise = find(name)
    _hints_shown[name] = n = min(_hints_shown[name] + 1, len(exercise.hints))
    for i, text in enumerate(exercise.hints[:n], 1):
        print(_wrap(f"Hint {i} of {len(exercise.hints)}: {text}"))
    if n == len(exercise.hints):
        print(f"That was the last one; solution({name!r}) shows a way to do it.")
    progress.record_hint(name, n)


def solution(name: str) -> None:
    """Show the source of a function that solves an exercise."""
    print(inspect.getsource(find(name).solution).rstrip())
    progress.record_solution(name)


# ---- behind it ----


def judge(exercise: Exercise, fn: Callable) -> Verdict:
    """Run an exercise's check on a function. Whatever the function does, the verdict comes back."""
    if not callable(fn):
        given = f"check needs your function, but it was given {describe(fn)}."
        return Verdict(False, f"{given} Name the function without brackets: check(…, {exercise.name}).")
    answer = Answer(fn, exercise.name, exercise.parameters)
    try:
        exercise.check(answer)
    except Unwritten:
        return Verdict(False, begun=False, printed=answer.printed)
    except Wrong as wrong:
        return Verdict(False, str(wrong), printed=answer.printed)
    except Exception as error:  # of a value, or of an exception, whose own methods fail
        return Verdict(False, f"what it gives cannot be looked at: {type(error).__name__}.", printed=answer.printed)
    return Verdict(True, printed=answer.printed)


def find(name: str) -> Exercise:
    """The exercise called "lesson.name". Errors: LookupError naming those that exist."""
    lesson, _, own = name.partition(".")
    exercises = {exercise.name: exercise for exercise in lesson_file("exercises", lesson).EXERCISES}
    if own not in exercises:
        close = difflib.get_close_matches(own, exercises, 1)
        meant = f" Did you mean {lesson}.{close[0]}?" if close else ""
        raise LookupError(f"there is no exercise {name!r}.{meant} Lesson {lesson} has: {', '.join(exercises)}")
    return exercises[own]


def lesson_file(folder: str, lesson: str) -> ModuleType:
    """A lesson's file in course/exercises or course/quizzes. Errors: LookupError naming the lessons that have one."""
    lessons = lessons_with(folder)
    if lesson not in lessons:
        raise LookupError(f"there are no {folder} for {lesson!r}. There are for: {', '.join(lessons)}")
    return importlib.import_module(f"course.{folder}.{lesson}")


def lessons_with(folder: str) -> list[str]:
    return sorted(path.stem for path in (COURSE / folder).glob("*.py") if path.stem != "__init__")


def _stated(name: str, exercise: Exercise) -> str:
    call = f"{exercise.name}({', '.join(exercise.parameters)})"
    stars = "★" * exercise.difficulty + "☆" * (3 - exercise.difficulty)
    then = f"When it is written: check({name!r}, {exercise.name})"
    return "\n".join([f"{stars}  {call}", "", _wrap(" ".join(exercise.statement.split())), "", then])


def _wrap(text: str) -> str:
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  " * line.startswith(("✗", "Hint", "It was at")),
                                   break_long_words=False, break_on_hyphens=False) for line in text.split("\n"))
