"""Progress is whole or not there, travels between machines, and a bad file costs nothing."""

import json
import math
import os
import subprocess
import sys

import pytest

from course import commands, progress


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    path = tmp_path / "work" / "progress.json"
    monkeypatch.setenv("COURSE_PROGRESS", str(path))
    return path


def some_progress():
    progress.record_check("start.text_nats", False)
    progress.record_check("start.text_nats", True)
    progress.record_hint("pretraining.cut", 2)
    progress.record_quiz("start", [1, 3], 5)


def test_nothing_done_is_empty(file):
    assert progress.load() == progress.EMPTY and progress.summary() == [] and not file.exists()


def test_what_is_reached_is_kept():
    some_progress()
    progress.record_check("start.text_nats", False)
    progress.record_hint("pretraining.cut", 1)
    assert progress.load()["exercises"] == {"start.text_nats": {"attempts": 3, "solved": True},
                                            "pretraining.cut": {"hints": 2}}
    assert progress.summary() == ["00_start: 1 of 4 exercises (text_nats), quiz 2 of 5",
                                  "06_pretraining: 0 of 4 exercises"]


def test_a_crash_while_writing_leaves_the_old_file(file, monkeypatch):
    some_progress()
    before = file.read_bytes()

    def crash(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        progress.record_check("start.preference", True)
    assert file.read_bytes() == before


def test_two_kernels_at_once_lose_nothing():
    code = "from course import progress\nfor i in range(50): progress.record_check(f'start.{{}}{i}', True)"
    commands = [[sys.executable, "-c", code.replace("{{}}", name)] for name in "ab"]
    kernels = [subprocess.Popen(command, cwd=progress.REPO) for command in commands]
    assert [kernel.wait(60) for kernel in kernels] == [0, 0]
    assert len(progress.load()["exercises"]) == 100


def test_a_lock_that_was_left_behind_holds_nobody_up_for_long(file, monkeypatch):
    monkeypatch.setattr(progress, "LOCK_S", 0.05)
    file.parent.mkdir()
    lock = file.with_name("progress.json.lock")
    lock.touch()
    progress.record_check("start.text_nats", True)
    assert progress.load()["exercises"] and not lock.exists()


@pytest.mark.parametrize("damage", [
    b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000, *(json.dumps(progress.EMPTY | change).encode() for change in (
        {"format": "x"}, {"exercises": {"../x": {}}}, {"exercises": {"a.b": {"hints": math.inf}}}))])
def test_a_damaged_file_is_set_aside_with_a_sentence(file, capsys, damage):
    file.parent.mkdir()
    file.write_bytes(damage)
    with pytest.raises(ValueError, match="progress.json is no progress of this course, or is damaged"):
        progress.load()
    progress.record_check("start.text_nats", True)
    assert "kept as progress.damaged.json" in capsys.readouterr().out
    assert file.with_name("progress.damaged.json").read_bytes() == damage
    assert progress.load()["exercises"] == {"start.text_nats": {"attempts": 1, "solved": True}}


def test_what_cannot_be_saved_is_a_sentence(monkeypatch, tmp_path, capsys):
    (tmp_path / "a_file").write_text("")
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "a_file" / "progress.json"))
    progress.record_check("start.text_nats", True)
    assert "could not be saved" in capsys.readouterr().out


@pytest.mark.parametrize("with_file", [False, True])
def test_progress_travels(file, tmp_path, capsys, with_file):
    some_progress()
    there = progress.load()
    exported = progress.export(*[tmp_path / "stick" / "mine.json"] * with_file)
    if with_file:
        assert os.path.isfile(exported)
    else:
        assert exported.startswith("course1:") and "\n" not in exported and len(exported) < 400
    file.unlink()
    progress.restore(exported if with_file else f"  {exported[:30]}\n{exported[30:]} ")
    assert progress.load() == there
    assert capsys.readouterr().out.startswith("00_start: 1 of 4 exercises (text_nats), quiz 2 of 5\n")


def test_restoring_adds_and_takes_nothing_away(file):
    some_progress()
    exported = progress.export()
    file.unlink()
    progress.record_check("start.preference", True)
    progress.record_quiz("start", [2], 5)
    for _ in range(2):
        progress.restore(exported)
    assert progress.load()["exercises"].keys() == {"start.text_nats", "pretraining.cut", "start.preference"}
    assert progress.load()["exercises"]["start.text_nats"]["attempts"] == 2
    assert progress.load()["quizzes"]["start"]["right"] == [1, 2, 3]


@pytest.mark.parametrize(("text", "words"), [
    ("course1:", "cut off or changed"), ("course1:!!!", "cut off or changed"), ("course1:AAAA", "cut off or changed"),
    ("nowhere.json", "expected a file"), ("", "expected a file"),
])
def test_a_wrong_text_is_a_sentence(text, words):
    with pytest.raises(ValueError, match=words):
        progress.restore(text)


def test_a_cut_or_swollen_text_is_refused(file, monkeypatch):
    some_progress()
    exported = progress.export()
    with pytest.raises(ValueError, match="cut off"):
        progress.restore(exported[:-8])
    monkeypatch.setattr(progress, "MAX_BYTES", 50)
    with pytest.raises(ValueError, match="cut off"):
        progress.restore(exported)


def test_status_shows_progress(file, capsys):
    assert commands.main(["status"]) == 0
    assert "progress      none recorded" in capsys.readouterr().out
    some_progress()
    commands.main(["status"])
    assert "progress      00_start: 1 of 4 exercises (text_nats), quiz 2 of 5" in capsys.readouterr().out
    file.write_text(json.dumps([]))
    commands.main(["status"])
    assert "progress      progress.json is no progress of this course" in capsys.readouterr().out
