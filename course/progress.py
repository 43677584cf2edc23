"""What a learner has done, in one small file that can be carried from one machine to another.

    print(progress.export())          a line of text to keep (Colab and Binder forget the file)
    progress.restore("course1:…")     brings it back
    progress.export("mine.json")      the same with a file, and progress.restore("mine.json")

Standard library only, since `python -m course status` reads it too. The file is written whole or not at all. Restoring
adds to what is there and never takes away.
"""

import ast
import base64
import binascii
import json
import os
import re
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from course import syllabus

REPO = Path(__file__).resolve().parent.parent
FORMAT = "course progress, version 1"
PREFIX = "course1:"
MAX_BYTES = 1_000_000  # unpacked; a text that claims more is no progress
LOCK_S = 2  # a lock that is older was left behind by a kernel that died
EXERCISE = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")
LESSON = re.compile(r"[a-z][a-z0-9_]*")
EMPTY = {"format": FORMAT, "exercises": {}, "quizzes": {}}


def path() -> Path:
    """work/progress.json, or where the environment variable COURSE_PROGRESS says."""
    return Path(os.environ.get("COURSE_PROGRESS") or REPO / "work" / "progress.json")


# ---- recording ----


def record_check(name: str, passed: bool) -> None:
    entry = {"attempts": 1, "solved": passed}
    _record("exercises", name, entry)


def record_hint(name: str, n: int) -> None:
    _record("exercises", name, {"hints": n})


def record_solution(name: str) -> None:
    _record("exercises", name, {"solution_seen": True})


def record_quiz(lesson: str, right: list[int], of: int) -> None:
    """`right`: numbers of the questions answered rightly so far, of `of`."""
    _record("quizzes", lesson, {"right": sorted(right), "of": of})


def _record(part: str, name: str, new: dict) -> None:
    """Add to an entry. What stops it from being saved is said in a sentence, and stops nothing else."""
    try:
        with _changed(path()) as data:
            entry = data[part].get(name, {})
            attempts = entry.get("attempts", 0) + new.get("attempts", 0)
            data[part][name] = _joined(entry, new) | ({"attempts": attempts} if attempts else {})
    except OSError as error:
        print(f"(Your progress could not be saved in {path().name}: {error.strerror or error}.)")


def _joined(a: dict, b: dict) -> dict:
    """Two entries of one exercise or quiz: whatever was reached in either."""
    joined = {key: max(a.get(key, 0), b.get(key, 0)) for key in a.keys() | b.keys() if key != "right"}
    return joined | ({"right": sorted({*a.get("right", ()), *b.get("right", ())})} if "right" in a | b else {})


# ---- the file ----


def load(file: Path | None = None) -> dict:
    """The progress in a file (default: the learner's own); empty if there is none.

    Errors: ValueError if it is not progress of this course."""
    file = file or path()
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return json.loads(json.dumps(EMPTY))
    return _checked(text, file.name)


def _load_or_set_aside(file: Path) -> dict:
    try:
        return load(file)
    except ValueError:
        aside = file.with_suffix(".damaged.json")
        os.replace(file, aside)
        print(f"({file.name} could not be read. It is kept as {aside.name}; a new one begins.)")
        return load(file)


@contextmanager
def _changed(file: Path) -> Iterator[dict]:
    """The progress in a file, to be changed and written back, while other kernels wait for their turn."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock, began = file.with_name(file.name + ".lock"), time.monotonic()
    while time.monotonic() - began < LOCK_S:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            time.sleep(0.01)
    try:
        data = _load_or_set_aside(file)
        yield data
        _write(file, data)
    finally:
        lock.unlink(missing_ok=True)


def _write(file: Path, data: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.new")
    temporary.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, file)


def _checked(text: bytes, source: str) -> dict:
    """Progress from JSON text: only what this module writes is let through."""
    try:
        data = json.loads(text)
        if data["format"] != FORMAT:
            raise ValueError
        exercises = {_named(EXERCISE, name): _exercise(entry) for name, entry in data["exercises"].items()}
        quizzes = {_named(LESSON, name): _quiz(entry) for name, entry in data["quizzes"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise ValueError(f"{source} is no progress of this course, or is damaged") from None
    return {"format": FORMAT, "exercises": exercises, "quizzes": quizzes}


def _named(pattern: re.Pattern, name: str) -> str:
    if not pattern.fullmatch(name):
        raise ValueError(name)
    return name


def _exercise(entry: dict) -> dict:
    counts = {key: int(entry[key]) for key in ("attempts", "hints") if key in entry}
    return counts | {key: bool(entry[key]) for key in ("solved", "solution_seen") if key in entry}


def _quiz(entry: dict) -> dict:
    return {"right": sorted({int(n) for n in entry["right"]}), "of": int(entry["of"])}


# ---- from one machine to another ----


def export(file: str | Path | None = None) -> str:
    """Progress as one line of text; with a path, written there instead (and the path is returned)."""
    data = load()
    if file is not None:
        _write(Path(file), data)
        return str(file)
    packed = zlib.compress(json.dumps(data, sort_keys=True).encode(), 9)
    return PREFIX + base64.urlsafe_b64encode(packed).decode()


def restore(exported: str | Path) -> None:
    """Add exported progress, a line of text or a file, to what is here. Errors: ValueError if it is neither."""
    text = str(exported).strip()
    if text.startswith(PREFIX):
        other = _checked(_unpacked(text), "this text")
    elif text and Path(text).is_file():
        other = load(Path(text))
    else:
        raise ValueError(f"expected a file, or the text beginning with {PREFIX} that progress.export() gave")
    with _changed(path()) as data:
        for part in ("exercises", "quizzes"):
            for name, entry in other[part].items():
                data[part][name] = _joined(data[part].get(name, {}), entry)
    print("\n".join(summary(data)))


def _unpacked(text: str) -> bytes:
    unpack = zlib.decompressobj()
    try:
        raw = unpack.decompress(base64.urlsafe_b64decode("".join(text.removeprefix(PREFIX).split())), MAX_BYTES)
        if not unpack.eof:
            raise ValueError
        return raw
    except (ValueError, binascii.Error, zlib.error):
        raise ValueError("this text is cut off or changed; copy it whole, from course1: to its end") from None


# ---- telling ----


def summary(data: dict | None = None) -> list[str]:
    """A line for each lesson with something done: "00_start: 2 of 4 exercises (text_nats, …), quiz 3 of 5"."""
    data = load() if data is None else data
    done = [name for name, entry in data["exercises"].items() if entry.get("solved")]
    begun = {name.split(".")[0] for name in data["exercises"]} | set(data["quizzes"])
    lines = []
    for notebook in (lesson.name for lesson in syllabus.lessons()):
        lesson = notebook.partition("_")[2]
        if lesson in begun:
            own = sorted(name.split(".")[1] for name in done if name.split(".")[0] == lesson)
            quiz = data["quizzes"].get(lesson)
            line = f"{notebook}: {len(own)} of {_planned(lesson)} exercises" + f" ({', '.join(own)})" * bool(own)
            lines.append(line + (f", quiz {len(quiz['right'])} of {quiz['of']}" if quiz else ""))
    return lines


def _planned(lesson: str) -> int:
    """How many exercises a lesson has, read off its file, which needs torch to be imported."""
    try:
        tree = ast.parse((REPO / "course" / "exercises" / f"{lesson}.py").read_text(encoding="utf-8"))
    except OSError:
        return 0
    return sum(isinstance(node, ast.Call) and ast.unparse(node.func) == "Exercise" for node in ast.walk(tree))
