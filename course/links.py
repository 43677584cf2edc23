"""What every lesson begins with, as syllabus.toml has it: title, minutes, objectives, where it opens with one click,
and the cell that fetches the course on Colab.

    python -m course links                      write them into all lessons
    python -m course links --repo owner/name    for a fork: its name into syllabus.toml first

Links, not badges: a badge is a picture from somebody else's server, asked for whenever the lesson opens, offline too.
"""
import argparse
import re
import sys
from pathlib import Path

import nbformat

from course import clean, syllabus

LESSONS = Path(__file__).resolve().parent.parent / "lessons"
LINE = re.compile(r"^Open this lesson .*\n\n", re.MULTILINE)
UNDER = re.compile(r"^(\*About .*\n\n)", re.MULTILINE)
TITLE = re.compile(r"\A# .*$", re.MULTILINE)
MINUTES = re.compile(r"^\*About \d+ minutes", re.MULTILINE)
OBJECTIVES = re.compile(r"^You will\n\n(?:- .*(?:\n|\Z))+", re.MULTILINE)
TAG = "colab"
FETCH = """import importlib.util  # on Colab this cell fetches the course; elsewhere it does nothing
import subprocess
import sys
from pathlib import Path

if "google.colab" in sys.modules and importlib.util.find_spec("course") is None:
    repository, folder = "https://github.com/{repository}", "/content/llm-course"
    if not Path(folder).exists():  # it is still there after a restart
        subprocess.run(["git", "clone", "--quiet", "--depth=1", repository, folder], check=True)
    needed = ["regex", "resvg-py", "safetensors", "tiktoken"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *needed], check=True)
    sys.path.insert(0, folder)"""


def line(name: str, repository: str) -> str:
    """The Markdown that opens lesson `name` elsewhere."""
    colab = f"https://colab.research.google.com/github/{repository}/blob/main/lessons/{name}.ipynb"
    binder = f"https://mybinder.org/v2/gh/{repository}/main?urlpath=lab/tree/lessons/{name}.ipynb"
    return f"Open this lesson in [Colab]({colab}) or on [Binder]({binder}).\n\n"


def headed(text: str, lesson: syllabus.Lesson, repository: str) -> str:
    """A first cell's text with the lesson's title, minutes, links and objectives in the place of those it had.

    ValueError if one of the places is missing.
    """
    *objectives, last = lesson.objectives
    listed = "".join(f"- {objective},\n" for objective in objectives)
    parts = {
        TITLE: f"# {lesson.name[:2]} · {lesson.title}",
        MINUTES: f"*About {lesson.minutes} minutes",
        OBJECTIVES: f"You will\n\n{listed}- and {last}.\n",
    }
    text = LINE.sub("", text)
    for place, part in parts.items():
        text, found = place.subn(lambda _, part=part: part, text, count=1)
        if not found:
            raise ValueError(
                f'{lesson.name}: the first cell needs a title, a line "*About … minutes …*" with an empty line after '
                'it, and "You will" with a list of objectives'
            )
    return UNDER.sub(lambda found: found[1] + line(lesson.name, repository), text.rstrip("\n"), count=1)


def linked(notebook, lesson: syllabus.Lesson, repository: str):
    """The notebook with its head and its fetching cell for `repository`; what it had before of either is replaced.

    ValueError if its first cell has no place for the head.
    """
    title, *rest = notebook.cells
    text = headed(title.source, lesson, repository)
    title = nbformat.v4.new_markdown_cell(text, metadata=title.metadata)
    fetch = nbformat.v4.new_code_cell(FETCH.format(repository=repository), metadata={"tags": [TAG]})
    rest = [cell for cell in rest if TAG not in cell.metadata.get("tags", ())]
    return clean.clean(nbformat.v4.new_notebook(cells=[title, fetch, *rest], metadata=notebook.metadata))


def renamed(text: str, repository: str) -> str:
    """syllabus.toml's text with another repository. ValueError unless it is owner/name."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r} is no repository; write owner/name, as in --repo octo/llm-course")
    return re.sub(r'^repository = ".*"$', f'repository = "{repository}"', text, count=1, flags=re.MULTILINE)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m course links", description=__doc__.split("\n")[0])
    parser.add_argument("--repo", help="owner/name, for a fork")
    repo = parser.parse_args(argv).repo
    try:
        if repo is not None:
            text = renamed(syllabus.FILE.read_text(encoding="utf-8"), repo)
            syllabus.FILE.write_text(text, encoding="utf-8", newline="\n")
        for path, lesson in ((LESSONS / f"{lesson.name}.ipynb", lesson) for lesson in syllabus.lessons()):
            if not path.exists():  # planned
                continue
            notebook = linked(nbformat.read(path, as_version=4), lesson, syllabus.repository())
            path.write_text(clean.dumps(notebook), encoding="utf-8", newline="\n")
    except ValueError as error:
        print(f"course: {error}", file=sys.stderr)
        return 1
    print(f"the lessons open from {syllabus.repository()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
