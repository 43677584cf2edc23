"""Quizzes: every option explained, usable as text, and as buttons in a notebook."""

import json
from types import SimpleNamespace

import pytest

from course import progress, quiz
from course.exercise import WIDTH, lesson_file, lessons_with
from course.quiz import Question, as_text

LESSONS = lessons_with("quizzes")
QUESTIONS = (
    Question("Is `a < b` a comparison?", "a", (("Yes", "It is."), ("No", "Look at <."))),
    Question("Which is larger?", "c", (("1", "1 < 3"), ("2", "2 < 3"), ("3", "Right."))),
)


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))


@pytest.fixture
def lesson(monkeypatch):
    monkeypatch.setattr(quiz, "lesson_file", lambda folder, name: SimpleNamespace(QUIZ=QUESTIONS))


# ---- the files ----


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_option_of_every_question_is_explained(lesson):
    questions = lesson_file("quizzes", lesson).QUIZ
    assert len(questions) >= 4
    for question in questions:
        texts, told = zip(*question.options, strict=True)
        assert len(texts) >= 3 and question.right in question.letters
        assert len(set(texts)) == len(set(told)) == len(texts)
        assert all(len(feedback) > 20 for feedback in told)


@pytest.mark.parametrize("lesson", LESSONS)
def test_no_letter_and_no_length_gives_the_answer_away(lesson):
    questions = lesson_file("quizzes", lesson).QUIZ
    assert max(sum(q.right == letter for q in questions) for letter in "abcd") <= len(questions) // 2
    longest = [max(q.options, key=lambda option: len(option[0])) == q.options[q.letters.index(q.right)]
               for q in questions]
    assert sum(longest) <= len(questions) // 2


def test_lessons_with_exercises_have_a_quiz():
    assert lessons_with("quizzes") == lessons_with("exercises")


# ---- as text ----


def test_asked_in_a_terminal_it_is_text(lesson, capsys):
    quiz.quiz("start")
    out = capsys.readouterr().out
    assert out.startswith("1. Is `a < b` a comparison?\n   a) Yes\n   b) No\n\n2. Which is larger?")
    assert "quiz('start', 'ab')" in out and "Look at" not in out


@pytest.mark.parametrize(("answers", "lines"), [
    ("ac", ["1. ✓ a) It is.", "2. ✓ c) Right.", "2 of 2 right."]),
    ("1) b 2) A", ["1. ✗ b) Look at <.", "2. ✗ a) 1 < 3", "0 of 2 right."]),
    ("2c", ["2. ✓ c) Right.", "1 of 2 right."]),
    ("3a", ["There are 2 questions: give a letter for each, in their order; - leaves one out."]),
    ("-b", ["2. ✗ b) 2 < 3", "0 of 2 right."]),
    ("a", ["1. ✓ a) It is.", "1 of 2 right."]),
    ("az", ["Question 2 has the options a, b, c, not 'z'."]),
    ("acc", ["There are 2 questions: give a letter for each, in their order; - leaves one out."]),
    ("", ["There are 2 questions: give a letter for each, in their order; - leaves one out."]),
])
def test_answers_are_explained(lesson, capsys, answers, lines):
    quiz.quiz("start", answers)
    assert capsys.readouterr().out.splitlines() == lines


def test_right_answers_are_recorded_and_stay_right(lesson):
    quiz.quiz("start", "aa")
    quiz.quiz("start", "bc")
    assert progress.load()["quizzes"] == {"start": {"right": [1, 2], "of": 2}}


@pytest.mark.parametrize("lesson", LESSONS)
def test_lines_fit(lesson):
    assert max(map(len, as_text(lesson, lesson_file("quizzes", lesson).QUIZ).splitlines())) <= WIDTH


# ---- as buttons ----


def test_buttons_tell_what_text_tells(lesson):
    ipywidgets = pytest.importorskip("ipywidgets")
    form = quiz._form("start", QUESTIONS)
    asked, buttons, said = form.children[0].children
    total = form.children[-2]
    assert "<code>a &lt; b</code>" in asked.value and isinstance(buttons, ipywidgets.ToggleButtons)
    buttons.value = "b"
    assert "✗ b) Look at &lt;." in said.value and "0 of 2" in total.value and 'role="status"' in said.value
    buttons.value = "a"
    form.children[1].children[1].value = "c"
    assert "✓ a)" in said.value and "2 of 2 right." in total.value
    assert progress.load()["quizzes"]["start"]["right"] == [1, 2]


def test_letters_typed_into_a_quiz_are_kept_from_the_notebook(lesson):
    pytest.importorskip("ipywidgets")
    from llmkit.widgets.frame import Frame, Picture

    form, frame = quiz._form("start", QUESTIONS), Frame("Test", lambda: Picture("<svg/>", "x"), {})
    assert form._dom_classes == frame.view._dom_classes == ("llmkit-frame",)
    assert form.children[-1].value == frame.view.children[-1].value and "suppress-shortcuts" in form.children[-1].value


def test_a_notebook_gets_one_bundle_of_text_and_buttons(lesson, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    cell = nbformat.v4.new_code_cell("from course.quiz import quiz\nquiz('start')")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    text = as_text("start", lesson_file("quizzes", "start").QUIZ)
    assert output.data["text/plain"] == text
    assert "model_id" in json.loads(json.dumps(output.data["application/vnd.jupyter.widget-view+json"]))
