"""The harness fails when it should: bad notebooks and bad tests go through the test command itself."""
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from course import testing

THREAD = "import threading\nt = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()"
NETWORK = "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=2)"


def run(*paths, **environment):
    """The test command on some paths: its exit status, its output, and (passed, failed, skipped) from the last line."""
    done = subprocess.run([sys.executable, "-m", "course.testing", *map(str, paths)], cwd=testing.ROOT, text=True,
                          capture_output=True, timeout=200, env=testing.offline_environment() | environment)
    last = done.stdout.rstrip("\n").split("\n")[-1]
    counts = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) skipped", last)
    assert counts, done.stdout + done.stderr
    return done.returncode, done.stdout, tuple(map(int, counts.groups()))


def write_notebook(path, *sources):
    """A notebook in the committed form: stored outputs, execution counts null."""
    output = new_output("stream", text="what an earlier run printed\n")
    nbformat.write(new_notebook(cells=[new_code_cell(source, outputs=[output]) for source in sources]), path)
    return path


def test_bad_cells_fail_and_good_ones_pass(tmp_path):
    good = write_notebook(tmp_path / "good.ipynb", "print(1)", "x = 2")
    bad = write_notebook(tmp_path / "bad.ipynb", "1 / 0", THREAD, NETWORK, "print('goes on')")
    dead = write_notebook(tmp_path / "dead.ipynb", "import os\nos._exit(9)", "1 + 1")
    status, output, counts = run(good, bad, dead)
    assert (status, counts) == (1, (3, 5, 0))
    for reason in ("ZeroDivisionError", "printed, not raised", "network block", "the kernel died"):
        assert reason in output


@pytest.mark.parametrize("source", ["import os\nos._exit(0)", "x = 1"])
def test_a_test_file_that_ends_the_process_or_holds_no_test_is_a_failure(tmp_path, source):
    path = tmp_path / "test_bad.py"
    path.write_text(source)
    assert run(path)[::2] == (1, (0, 1, 0))


@pytest.mark.parametrize(("ci", "expected"), [("", (0, (1, 0, 2))), ("true", (1, (1, 2, 0)))])
def test_a_skipped_parity_test_is_seen_and_is_a_failure_in_ci(tmp_path, ci, expected):
    parity = tmp_path / "parity"
    parity.mkdir()
    shutil.copy(testing.ROOT / "tests/conftest.py", tmp_path)
    (parity / "test_a.py").write_text("import pytest\n\ndef test_a():\n    pytest.skip('no peer')\n")
    (parity / "test_b.py").write_text("import pytest\npytest.importorskip('no_peer')\n")
    (parity / "test_c.py").write_text("def test_c():\n    pass\n")
    assert run(tmp_path, CI=ci)[::2] == expected


def test_the_full_plan_holds_every_lesson_and_the_canary_and_the_quick_one_none():
    arguments = {argument for phase in testing.plan([], quick=False) for argument in phase.command}
    notebooks = [testing.NETBLOCK / "canary.ipynb", *(testing.ROOT / "lessons").glob("*.ipynb")]
    assert set(map(str, notebooks)) <= arguments
    assert [phase.name for phase in testing.plan([], quick=True)] == ["lint", "unit"]


@pytest.mark.parametrize(("cpus", "gigabytes", "options"), [
    (1, 16, []), (2, 16, ["-n", "2", "--dist=loadfile"]), (64, 16, ["-n", "4", "--dist=loadfile"]), (8, 3, []),
])
def test_unit_tests_run_side_by_side_where_there_is_room(cpus, gigabytes, options, monkeypatch):
    monkeypatch.setattr(testing, "cpu_count", lambda: cpus)
    monkeypatch.setattr(testing, "memory_bytes", lambda: gigabytes * 10**9)
    assert testing.side_by_side() == options
    unit = {phase.name: phase.command for phase in testing.plan([], quick=True)}["unit"]
    assert all(option in unit for option in options) and ("-n" in unit) == bool(options)
