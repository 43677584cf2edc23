"""The learner's copies, the doctor's verdicts, the syllabus and the pins."""
import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from course import commands, doctor, machine, syllabus
from course.env import Environment
from course.learner import Desk
from course.machine import Trouble

ROOT = Path(__file__).resolve().parent.parent


def write_lesson(path, *sources, outputs=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"cell_type": "code", "source": source, "outputs": list(outputs)} for source in sources]
    path.write_text(json.dumps({"cells": cells}))


@pytest.fixture
def desk(tmp_path):
    for name in ("00_start", "06_pretraining"):
        write_lesson(tmp_path / "lessons" / f"{name}.ipynb", "one")
    desk = Desk(tmp_path)
    assert desk.hand_out() == ["00_start", "06_pretraining"]
    return desk


def states(desk):
    return {copy.name[:2]: copy.state for copy in desk.copies()}


def test_handing_out_twice_changes_nothing(desk):
    assert desk.hand_out() == [] and states(desk) == {"00": "current", "06": "current"}


def test_update_replaces_the_unedited_and_keeps_the_edited(desk):
    write_lesson(desk.folder / "00_start.ipynb", "mine")
    for name in desk.names():
        write_lesson(desk.source / f"{name}.ipynb", "two")
    assert desk.update() == {"00_start": "edited, outdated", "06_pretraining": "outdated"}
    assert "mine" in (desk.folder / "00_start.ipynb").read_text()
    assert "two" in (desk.folder / "06_pretraining.ipynb").read_text()
    assert states(desk) == {"00": "edited, outdated", "06": "current"}


def test_start_and_update_say_how_a_new_version_comes(desk, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, "REPO", tmp_path)
    ensured = []
    monkeypatch.setattr(commands.environment, "ensure", ensured.append)
    monkeypatch.setattr(commands.lab, "start", lambda place, arguments: len(arguments))
    (desk.folder / "00_start.ipynb").unlink()
    assert commands.main(["start", "--no-browser"]) == 1 and capsys.readouterr().out == ""
    assert len(ensured) == 1 and states(desk)["00"] == "current"
    write_lesson(desk.folder / "06_pretraining.ipynb", "mine")
    for name in desk.names():
        write_lesson(desk.source / f"{name}.ipynb", "two")
    commands.main([])
    simple, edited = capsys.readouterr().out.splitlines()
    assert "00_start" in simple and "course update" in simple and "06" not in simple
    assert "06_pretraining" in edited and "course reset 06" in edited and "00" not in edited
    commands.main(["update"])
    replaced, kept = capsys.readouterr().out.splitlines()
    assert "00_start" in replaced and "new version" in replaced and "kept; python -m course reset 06" in kept
    assert commands.main(["reset"]) == 1 and "which lesson" in capsys.readouterr().err
    assert commands.main(["reset", "06"]) == 0 and states(desk)["06"] == "current"
    assert "your copy is kept in work" in capsys.readouterr().out


def test_running_a_lesson_is_not_editing_it(desk):
    write_lesson(desk.folder / "00_start.ipynb", "one", outputs=[{"output_type": "stream", "text": "hi"}])
    assert states(desk)["00"] == "current"
    write_lesson(desk.source / "00_start.ipynb", "two")
    assert states(desk)["00"] == "outdated"


def test_jupyters_way_of_storing_source_lines_is_not_an_edit(desk):
    write_lesson(desk.source / "00_start.ipynb", "a\nb")
    desk.update()
    write_lesson(desk.folder / "00_start.ipynb", ["a\n", "b"])
    assert states(desk)["00"] == "current"


def test_reset_keeps_every_edited_copy(desk):
    for text in ("mine", "again mine"):
        write_lesson(desk.folder / "06_pretraining.ipynb", text)
        name, backup = desk.reset("6")
        assert name == "06_pretraining" and text in backup.read_text()
        assert states(desk)["06"] == "current"
    assert len(list(desk.folder.glob("06_pretraining.backup-*.ipynb"))) == 2
    assert desk.reset("pretraining") == ("06_pretraining", None)


def test_a_backup_is_no_lesson(desk):
    write_lesson(desk.folder / "00_start.ipynb", "mine")
    desk.reset("00")
    assert desk.names() == ["00_start", "06_pretraining"] and desk.update()["00_start"] == "current"


@pytest.mark.parametrize("typed", ["6", "06", "pretraining", "06_pretraining", "work/lessons/06_pretraining.ipynb"])
def test_a_lesson_is_found_by_any_of_its_names(desk, typed):
    assert desk.find(typed) == "06_pretraining"


def test_an_unknown_lesson_is_a_sentence(desk):
    with pytest.raises(Trouble, match="there is no lesson '99'. The lessons are: 00_start"):
        desk.reset("99")


@pytest.mark.parametrize("damage", ["", "{", "[]"])
def test_a_damaged_ledger_counts_every_changed_copy_as_edited(desk, damage):
    desk.ledger.write_text(damage)
    write_lesson(desk.source / "00_start.ipynb", "two")
    assert desk.update() == {"00_start": "edited, outdated", "06_pretraining": "current"}
    assert "one" in (desk.folder / "00_start.ipynb").read_text()


def test_a_copy_that_is_no_notebook_belongs_to_the_learner(desk):
    (desk.folder / "00_start.ipynb").write_text("half a file {")
    assert desk.update()["00_start"] == "edited"
    _, backup = desk.reset("00")
    assert backup.read_text() == "half a file {"


def test_a_deleted_copy_is_handed_out_again(desk):
    (desk.folder / "00_start.ipynb").unlink()
    assert desk.hand_out() == ["00_start"]


# ---- doctor ----

@pytest.mark.parametrize(("finding", "verdict"), [
    (doctor.memory(1_000_000_000), "problem"), (doctor.memory(2_100_000_000), "warning"),
    (doctor.memory(8_000_000_000), "ok"),
    (doctor.disk(1e9, Path("here"), False), "problem"), (doctor.disk(1e9, Path("here"), True), "ok"),
    (doctor.threads(8, None, None), "ok"), (doctor.threads(8, 1.0, None), "warning"),
    (doctor.threads(8, 2.0, "8"), "warning"), (doctor.threads(8, 2.0, "2"), "ok"),
    (doctor.network(True, False), "ok"), (doctor.network(False, False), "warning"),
    (doctor.network(None, False), "warning"), (doctor.network(False, True), "ok"),
    (doctor.gpu(None, None), "ok"), (doctor.gpu("GPU 0", None), "ok"),
    (doctor.gpu("GPU 0", {"gpu": None, "torch": "2.13.0+cpu"}), "warning"),
    (doctor.gpu("GPU 0", {"gpu": "a card", "torch": "2.13.0"}), "ok"),
    (doctor.packages(["torch"], False, None), "warning"),
    (doctor.packages([], True, {"broken": {"plotly": "ImportError"}, "torch": "2.13.0"}), "problem"),
    (doctor.packages([], True, {"broken": {}, "torch": "2.13.0"}), "ok"),
    (doctor.python((3, 10, 1), "cpython"), "problem")])
def test_verdicts(finding, verdict):
    assert finding.verdict == verdict and finding.text


def test_doctor_examines_a_machine_without_an_environment(tmp_path, monkeypatch):
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\n")
    monkeypatch.setattr(machine, "pip_reaches_packages", lambda python: False)
    topics = {finding.topic: finding for finding in doctor.examine(Environment(tmp_path))}
    assert list(topics) == ["python", "platform", "venv", "memory", "disk", "threads", "gpu", "network", "packages"]
    assert "torch" in topics["packages"].text
    assert str(topics["network"]).startswith("warning  network    pip gets no answer; the first start needs it")


def test_doctor_examines_an_environment_that_is_complete(tmp_path, monkeypatch):
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\nresvg-py\n")
    monkeypatch.setattr(doctor.environment, "is_ready", lambda place: True)
    monkeypatch.setattr(machine, "pip_reaches_packages", lambda python: None)
    findings = {finding.topic: str(finding) for finding in doctor.examine(Environment(tmp_path))}
    assert findings["packages"].startswith("problem  packages   python cannot be loaded")  # .venv is not there
    found = {"broken": {}, "torch": "2.13.0+cpu", "gpu": None}
    monkeypatch.setattr(doctor, "probe_imports", lambda place: found)
    findings = {finding.topic: str(finding) for finding in doctor.examine(Environment(tmp_path))}
    assert findings["packages"] == "ok       packages   complete, PyTorch 2.13.0+cpu"
    assert findings["network"].endswith("not checked, this Python has no pip; all is installed and nothing needs it")


@pytest.mark.parametrize(("files", "quota"), [
    ({"cpu.max": "150000 100000"}, 1.5), ({"cpu.max": "max 100000"}, None), ({}, None),
    ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2.0),
    ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None)])
def test_cgroup_quota(tmp_path, monkeypatch, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.cpu_quota() == quota


def test_cgroup_memory_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    total = machine.memory_bytes()
    (tmp_path / "memory.max").write_text("1000000\n")
    assert machine.memory_bytes() == 1_000_000 < total


# ---- syllabus and pins ----

def test_the_syllabus_is_in_order_and_needs_only_earlier_lessons():
    names = [lesson.name for lesson in syllabus.lessons()]
    assert [name[:2] for name in names] == [f"{number:02}" for number in range(23)]
    for position, lesson in enumerate(syllabus.lessons()):
        assert set(lesson.needs) <= set(names[:position])
        assert len(lesson.objectives) >= 3 and lesson.minutes > 0 and lesson.title.endswith("?")
    assert re.fullmatch(r"[\w-]+/[\w-]+", syllabus.repository())


def test_every_notebook_is_in_the_syllabus_and_the_readme_tells_planned_from_present():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    present = {path.stem for path in (ROOT / "lessons").glob("*.ipynb")}
    assert present <= {lesson.name for lesson in syllabus.lessons()}
    for lesson in syllabus.lessons():
        here = lesson.name in present
        title = f"[{lesson.title}](lessons/{lesson.name}.ipynb)" if here else lesson.title
        row = f"| {lesson.name[:2]} | {title} | {lesson.minutes} | {'here' if here else 'planned'} |"
        assert row in readme, f"README.md should have the row: {row}"


def bounds(lines):
    """{package: (first version, first excluded version)}, an exact pin being both."""
    conda = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}
    found = {}
    for requirement in map(Requirement, lines):
        by_operator = {part.operator: tuple(map(int, part.version.split("."))) for part in requirement.specifier}
        exact = by_operator.get("==")
        low, high = exact or by_operator.get(">=", (0,)), exact or by_operator.get("<", (10**6,))
        found[conda.get(requirement.name, requirement.name)] = low, high
    return found


def test_requirements_lie_within_pyproject_and_equal_binder():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    required = bounds(line for line in text.splitlines() if line and not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    loose = bounds(project["dependencies"] + project["optional-dependencies"]["lessons"])
    binder = bounds(re.findall(r"- ([\w-]+[<>=].*)", (ROOT / "binder/environment.yml").read_text(encoding="utf-8")))
    assert required.keys() == loose.keys() == binder.keys() - {"python"}
    for name, (low, high) in required.items():
        assert loose[name][0] <= low and high <= loose[name][1], name
        if name != "torch":
            assert binder[name] == (low, high), name
    assert required["torch"][0] == required["torch"][1], "torch is pinned exactly"
    assert binder["torch"][0] <= required["torch"][0] < binder["torch"][1]
    assert binder["python"] == ((3, 11), (3, 15))


def test_no_package_index_is_named():
    for name in ("requirements.txt", "pyproject.toml", "binder/environment.yml", "binder/postBuild", ".ci/run"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"index-url|find-links|https?://", text), name
