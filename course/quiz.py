"""Quizzes that explain every option: quiz("start") asks, quiz("start", "bacd") answers the questions in their order.

What is displayed is text, and in a notebook with ipywidgets the same with buttons: one bundle, of which GitHub, exports
and terminals show the text. The questions of a lesson stand in course/quizzes/<lesson>.py.
"""

import html
import re
import sys
import textwrap
from dataclasses import dataclass

from course import progress
from course.exercise import WIDTH, lesson_file

SKIP = "-?"  # in place of a letter: leave that question out


@dataclass(frozen=True)
class Question:
    """A question, its options as (text, feedback), and the letter of the right one. `code` marks code."""

    text: str
    right: str
    options: tuple[tuple[str, str], ...]

    @property
    def letters(self) -> str:
        return "abcdef"[: len(self.options)]

    def feedback(self, letter: str) -> str:
        """What to say to somebody who chose this letter."""
        said = self.options[self.letters.index(letter)][1]
        return f"{'✓' if letter == self.right else '✗'} {letter}) {said}"


def quiz(lesson: str, answers: str | None = None) -> None:
    """Ask a lesson's questions, or, given a letter for each, say what is right or wrong about it ("-" leaves one out).

    Errors: LookupError for a lesson without a quiz."""
    questions = lesson_file("quizzes", lesson).QUIZ
    if answers is None:
        _display(as_text(lesson, questions), lambda: _form(lesson, questions))
        return
    chosen = _numbered(answers)
    if trouble := _trouble(chosen, questions):
        print(trouble)
        return
    chosen = {i: letter for i, letter in chosen.items() if letter not in SKIP}
    for i, letter in chosen.items():
        print(_wrap(f"{i}. {questions[i - 1].feedback(letter)}"))
    right = _recorded(lesson, questions, chosen)
    print(f"{len(right)} of {len(questions)} right.")


def as_text(lesson: str, questions: tuple[Question, ...]) -> str:
    """The questions and how to answer them, as plain text."""
    parts = []
    for i, question in enumerate(questions, 1):
        options = [_wrap(f"   {a}) {text}") for a, (text, _) in zip(question.letters, question.options, strict=True)]
        parts.append("\n".join([_wrap(f"{i}. {question.text}"), *options]))
    example = (question.letters[i % len(question.letters)] for i, question in enumerate(questions))
    parts.append(f"To answer, one letter a question: quiz({lesson!r}, {''.join(example)!r})")
    return "\n\n".join(parts)


def _numbered(answers: str) -> dict[int, str]:
    """ "bac", "b a c" and "1b 2a 3c" say the same; "3c" answers the third question alone."""
    chosen, number = {}, 0
    for digits, letter in re.findall(r"(\d*)[\s.:)=]*([^\W\d]|[?-])", answers.lower()):
        number = int(digits) if digits else number + 1
        chosen[number] = letter
    return chosen


def _trouble(chosen: dict[int, str], questions: tuple[Question, ...]) -> str:
    if not chosen or not all(1 <= i <= len(questions) for i in chosen):
        return f"There are {len(questions)} questions: give a letter for each, in their order; - leaves one out."
    for i, letter in chosen.items():
        options = questions[i - 1].letters
        if letter not in options + SKIP:
            return f"Question {i} has the options {', '.join(options)}, not {letter!r}."
    return ""


def _recorded(lesson: str, questions: tuple[Question, ...], chosen: dict[int, str]) -> list[int]:
    right = [i for i, letter in chosen.items() if questions[i - 1].right == letter]
    progress.record_quiz(lesson, right, len(questions))
    return right


def _wrap(text: str) -> str:
    indent = " " * (len(text) - len(text.lstrip()) + 3)
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


# ---- in a notebook ----


def _display(text: str, form) -> None:
    """Text, with a form in the same bundle where there are a notebook and ipywidgets to show it."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    try:
        if not hasattr(shell, "kernel"):
            raise ImportError
        view = form()
    except ImportError:
        print(text)
        return
    bundle = view._repr_mimebundle_() | {"text/plain": text}
    ipython.display.display(bundle, raw=True)


def _form(lesson: str, questions: tuple[Question, ...]):
    """The questions as ipywidgets: a row of letters under each, to click or type, and what to say of the choice."""
    from ipywidgets import HTML, ToggleButtons, VBox

    from llmkit.widgets.keys import keyed

    chosen: dict[int, str] = {}

    def asked(i: int, question: Question) -> VBox:
        texts = [text for text, _ in question.options]
        options = "".join(f"<div>{a}) {_html(t)}</div>" for a, t in zip(question.letters, texts, strict=True))
        buttons = ToggleButtons(options=list(question.letters), value=None, tooltips=texts,
                                style={"button_width": "3em"}, description=f"Answer {i}")
        said = HTML('<div role="status"></div>')

        def answer(change) -> None:
            if change["new"]:
                chosen[i] = change["new"]
                said.value = f'<div role="status">{_html(question.feedback(change["new"]))}</div>'
                right = _recorded(lesson, questions, chosen)
                total.value = f'<div role="status">{len(right)} of {len(questions)} right.</div>'

        buttons.observe(answer, "value")
        return VBox([HTML(f"<div><b>{i}. {_html(question.text)}</b></div>{options}"), buttons, said])

    total = HTML('<div role="status"></div>')
    return keyed([*(asked(i, question) for i, question in enumerate(questions, 1)), total])


def _html(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
