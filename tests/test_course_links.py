"""links: every lesson carries its line and its fetching cell for the repository that the syllabus names."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course import clean, links, syllabus

LESSONS = sorted((Path(__file__).resolve().parent.parent / "lessons").glob("*.ipynb"))


def notebook():
    title = "# 07 · Why?\n\n*About 60 minutes. Before it: 06.*\n\nYou will see."
    return clean.clean(new_notebook(cells=[new_markdown_cell(title), new_code_cell("1 + 1")]))


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lessons_links_lead_to_the_syllabus_repository(path):
    text = path.read_text(encoding="utf-8")
    lesson = links.linked(nbformat.reads(text, as_version=4), path.stem, syllabus.repository())
    assert clean.dumps(lesson) == text, "python -m course links writes them"


def test_links_stand_under_the_minutes_and_are_replaced_not_repeated():
    once = links.linked(notebook(), "07_why", "octo/course")
    moved = links.linked(once, "07_why", "hexa/fork")
    assert once.cells[0].source.split("\n\n")[2].startswith("Open this lesson in [Colab](https://colab.research.google")
    assert "octo/course/blob/main/lessons/07_why.ipynb" in once.cells[0].source
    assert "octo" not in clean.dumps(moved) and len(moved.cells) == 3
    assert links.linked(moved, "07_why", "octo/course") == once


def test_a_lesson_without_its_minutes_is_refused():
    with pytest.raises(ValueError, match="needs a line"):
        links.linked(new_notebook(cells=[new_markdown_cell("# 07")]), "07", "octo/course")


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
