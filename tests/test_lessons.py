"""House rules for notebooks, read without running them (course.testing runs them), with samples they must reject."""
import ast
import re
import statistics
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course import clean

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted((ROOT / "lessons").glob("*.ipynb"))
NOTEBOOKS = [*LESSONS, ROOT / "tests/netblock/canary.ipynb"]
MAX_CELL_LINES, MAX_MEDIAN_LINES, MAX_BYTES = 25, 6, 300_000
ALLOWED_MAGICS = ("%pip install",)
SHELL = re.compile(r"^\s*[!%]|=\s*![\w(]|=\s*%\w|get_ipython\(\)\.(system|run_)", re.MULTILINE)
SWALLOWING = {"Output", "interact", "interactive", "interactive_output", "interact_manual", "FigureWidget"}


def without_allowed_magics(source):
    return "\n".join(line for line in source.split("\n") if not line.startswith(ALLOWED_MAGICS))


def cell_breaches(cell):
    """What a code cell must not hold, mostly because its failure would pass unseen."""
    source = without_allowed_magics(cell.source)
    if len(cell.source.split("\n")) > MAX_CELL_LINES:
        yield f"over {MAX_CELL_LINES} lines"
    if SHELL.search(source):
        yield "a shell command or magic: its failure would pass unseen"
        return
    names = {getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(ast.parse(source))}
    if used := names & SWALLOWING:
        yield f"{', '.join(sorted(used))}: exceptions vanish in it, or it stores megabytes"
    for output in cell.outputs:
        if output.output_type == "error" or "Traceback (most recent call last)" in output.get("text", ""):
            yield "a stored exception"


def notebook_breaches(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        yield from (f"{breach}: {cell.source[:60]!r}" for breach in cell_breaches(cell))
    if code and (median := statistics.median(len(cell.source.split("\n")) for cell in code)) > MAX_MEDIAN_LINES:
        yield f"median of {median} lines a code cell"
    if not any(cell.outputs for cell in code):
        yield "committed without outputs"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_keeps_the_house_rules(path):
    assert list(notebook_breaches(nbformat.read(path, as_version=4))) == []
    assert path.stat().st_size <= MAX_BYTES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cleaning_changes_nothing(path):
    text = path.read_text(encoding="utf-8")
    assert clean.dumps(clean.clean(nbformat.reads(text, as_version=4))) == text


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_shows_a_picture(path):
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def called_planned(text):
    """Numbers of the lessons that a text calls planned: "lesson 10 (planned)", "02, attention (planned)"."""
    return re.findall(r"\b(\d\d)\b[^.()\n]{0,30}\(planned\)", text)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_no_lesson_that_exists_is_called_planned(path):
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    assert not set(called_planned(text)) & {lesson.stem[:2] for lesson in LESSONS}


def test_the_rule_of_what_is_planned_sees():
    assert called_planned("lesson 10 (planned); 02, attention (planned), and 03. It is (planned)") == ["10", "02"]


@pytest.mark.parametrize("source", [
    "!ls", "x = !ls", "%time f()", "x = %sql select", "for i in x:\n    !ls {i}", "get_ipython().system('ls')",
    "from ipywidgets import Output\nOutput()", "widgets.interact(f, x=1)", "\n".join("abcdefghijklmnopqrstuvwxyz"),
])
def test_the_cell_rule_sees(source):
    assert list(cell_breaches(new_code_cell(source)))


@pytest.mark.parametrize("source", ["%pip install datasets", "x = a % b", "y = 'a!b %s' % c", "assert x != y"])
def test_the_cell_rule_allows(source):
    assert list(cell_breaches(new_code_cell(source))) == []


def test_the_notebook_rule_sees():
    shown = new_output("stream", text="1\n")
    thread = new_output("stream", name="stderr", text="Exception in thread\nTraceback (most recent call last):\n")
    good = new_notebook(cells=[new_markdown_cell("# A"), new_code_cell("print(1)", outputs=[shown])])
    assert list(notebook_breaches(good)) == []
    assert list(notebook_breaches(new_notebook(cells=[new_code_cell("print(1)")]))) == ["committed without outputs"]
    for cell in (new_code_cell("f()", outputs=[thread]), new_code_cell("1\n" * 7, outputs=[shown])):
        assert len(list(notebook_breaches(new_notebook(cells=[cell])))) == 1
