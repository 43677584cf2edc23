"""The teacher's guide: each lesson that exists has its page, ninety minutes long, which names its own sections."""

import re
from pathlib import Path

import nbformat
import pytest

from course import syllabus
from course.exercise import lesson_file

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(path.stem for path in (ROOT / "lessons").glob("*.ipynb"))
GUIDE = (ROOT / "course/teach/guide.md").read_text(encoding="utf-8")


def pages():
    """{"00 · start": the text below that heading}, in the guide's order."""
    _, *parts = re.split(r"^## (\d\d · \w+)$", GUIDE, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def page(name):
    return pages()[name.replace("_", " · ", 1)]


def headings(name):
    cells = nbformat.read(ROOT / "lessons" / f"{name}.ipynb", as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return set(re.findall(r"^##+ (.*)$", text, re.M))


def test_every_lesson_has_a_page_in_the_order_of_the_syllabus():
    assert list(pages()) == [name.replace("_", " · ", 1) for name in LESSONS]
    assert set(LESSONS) <= {lesson.name for lesson in syllabus.lessons()}


@pytest.mark.parametrize("name", LESSONS)
def test_a_page_plans_ninety_minutes_with_sections_that_the_lesson_has(name):
    rows = re.findall(r"^\| (\d+) \| (.+?) \| .+ \|$", page(name), re.M)
    assert sum(int(minutes) for minutes, _ in rows) == 90
    sections = [section for _, cell in rows for section in cell.split(" · ")]
    assert sections and not set(sections) - headings(name)


@pytest.mark.parametrize("name", LESSONS)
def test_a_page_fits_on_a_screen_and_has_three_misconceptions_and_questions(name):
    text = page(name)
    assert len(re.findall(r'^- \*"', text, re.M)) == 3
    discussed, home = text.split("Discuss: ")[1].split("*For home")
    assert discussed.count("?") >= 3 and home
    assert len(text.strip().splitlines()) <= 30


@pytest.mark.parametrize("name", LESSONS)
def test_what_a_page_names_in_code_are_exercises_of_the_lesson(name):
    exercises = {e.name for e in lesson_file("exercises", name.partition("_")[2]).EXERCISES}
    named = set(re.findall(r"`([a-z_]+)`", page(name)))
    assert named and named <= exercises
