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
    assert text.split("Discuss: ")[1].count("?") >= 3
    assert len(text.strip().splitlines()) <= 30


@pytest.mark.parametrize("name", LESSONS)
def test_what_is_left_for_home_are_sections_and_exercises_of_the_lesson(name):
    exercises = {e.name for e in lesson_file("exercises", name.partition("_")[2]).EXERCISES}
    named = set(re.findall(r"`([a-z_]+)`", page(name)))
    assert named and named <= exercises
    home = re.split(r"\*For home.*?:\*", page(name))[1].strip().rstrip(".").split("; ")
    assert {item for item in home if item[0].isupper()} <= headings(name)
