"""links: every lesson begins as the syllabus has it, with a line and a cell for the repository that it names."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course import clean, links, syllabus

LESSONS = sorted((Path(__file__).resolve().parent.parent / "lessons").glob("*.ipynb"))


WHY = syllabus.Lesson("07_why", "Why?", 60, (), ("ask", "see $\\sqrt d$"))
HEAD = "# 7 · How?\n\n*About 5 minutes. Before it: 06.*\n\nYou will\n\n- guess,\n- see.\n\nShort of time? Guess."


def notebook(head=HEAD):
    return clean.clean(new_notebook(cells=[new_markdown_cell(head), new_code_cell("1 + 1")]))


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_begins_as_the_syllabus_has_it(path):
    text = path.read_text(encoding="utf-8")
    (lesson,) = (lesson for lesson in syllabus.lessons() if lesson.name == path.stem)
    notebook = links.linked(nbformat.reads(text, as_version=4), lesson, syllabus.repository())
    assert clean.dumps(notebook) == text, "python -m course links writes it"
    before = re.search(r"Before it: (.*)\*", notebook.cells[0].source)[1]
    assert {name[:2] for name in lesson.needs} <= set(re.findall(r"\b\d\d\b", before))


def test_title_minutes_and_objectives_are_the_syllabus_own_and_the_rest_stays():
    once = links.linked(notebook(), WHY, "octo/course").cells[0].source
    title, minutes, opens, you_will, objectives, rest = once.split("\n\n")
    assert (title, minutes, you_will) == ("# 07 · Why?", "*About 60 minutes. Before it: 06.*", "You will")
    assert objectives == "- ask,\n- and see $\\sqrt d$." and rest == "Short of time? Guess."
    assert opens.startswith("Open this lesson in [Colab](https://colab.research.google")
    assert "octo/course/blob/main/lessons/07_why.ipynb" in opens
    ends = links.linked(notebook(HEAD.partition("\n\nShort")[0]), WHY, "octo/course").cells[0].source
    assert once == f"{ends}\n\nShort of time? Guess."


def test_what_stood_there_is_replaced_not_repeated():
    once = links.linked(notebook(), WHY, "octo/course")
    moved = links.linked(once, WHY, "hexa/fork")
    assert "octo" not in clean.dumps(moved) and len(moved.cells) == 3
    assert links.linked(moved, WHY, "octo/course") == once


@pytest.mark.parametrize("part", ["# 7 · How?\n\n", " 5 minutes", "You will\n\n"])
def test_a_lesson_that_has_no_place_for_its_head_is_refused(part):
    with pytest.raises(ValueError, match="07_why: the first cell needs"):
        links.linked(notebook(HEAD.replace(part, "")), WHY, "octo/course")


def test_the_fetching_cell_does_nothing_where_the_course_is():
    code = links.FETCH.format(repository="nobody/nothing")
    done = subprocess.run([sys.executable, "-c", code], cwd=LESSONS[0].parent.parent, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


ON_COLAB = """
import os, subprocess, sys, types

def run(command, check):
    print(command[0] if command[0] == "git" else "pip")
    if command[0] == "git":
        os.makedirs(command[-1] + "/course")

subprocess.run, sys.modules["google.colab"] = run, types.ModuleType("google.colab")
"""


def test_on_colab_the_course_is_fetched_once_and_found_again_after_a_restart(tmp_path):
    code = links.FETCH.format(repository="octo/course").replace("/content", tmp_path.as_posix())
    asks = "import course\nprint(*course.__path__)"
    for calls in (["git", "pip"], ["pip"]):
        command = [sys.executable, "-I", "-S", "-c", f"{ON_COLAB}\n{code}\n{asks}"]  # -I -S: not installed
        *called, found = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout.decode().split()
        assert called == calls and Path(found).parent.parent == tmp_path


def test_a_fork_renames_the_syllabus_and_nonsense_is_refused():
    text = syllabus.FILE.read_text(encoding="utf-8")
    assert links.renamed(text, "hexa/fork").count('repository = "hexa/fork"') == 1
    with pytest.raises(ValueError, match="owner/name"):
        links.renamed(text, "https://example.org/x")
