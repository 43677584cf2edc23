"""The test command, inside the course's environment: `python -m course.testing [--quick] [paths…]`.

Lint, unit and parity tests, every lesson, the browser tests: one phase after the other, so that training in a lesson
has all cores, with every connection that leaves the machine refused. The last line is `N passed, N failed, N skipped`.
With CI=true a skipped parity or browser test is a failure (see tests/conftest.py).
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from course.machine import cpu_count, memory_bytes

ROOT = Path(__file__).resolve().parent.parent
NETBLOCK = ROOT / "tests" / "netblock"
CELL_TIMEOUT_S = 300
PHASE_TIMEOUT_S = 45 * 60
NOTHING_RAN = 5  # pytest's exit status, also when every file was skipped
SLOW = ["--deselect=tests/test_train.py::test_a_compiled_model_learns_the_same"]  # half a minute of the C++ compiler


def offline_environment() -> dict[str, str]:
    """os.environ with the network block on PYTHONPATH: all Python processes started with it refuse the network."""
    paths = [str(NETBLOCK), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Phase:
    name: str
    command: list[str]  # after `python -m`: ruff, which counts as one test, or pytest
    environment: dict[str, str] = field(default_factory=dict)


def plan(paths, quick: bool) -> list[Phase]:
    """The phases for the whole course, or for some paths: notebooks run as lessons, everything else under pytest."""
    one_thread = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # tiny tensors: more threads only wait
    pytest = ["pytest", "-q", "-ra", "--continue-on-collection-errors"]
    lessons = [*pytest, "-p", "course.nbval_plugin", "--nbval-lax", "--nbval-current-env",
               f"--nbval-cell-timeout={CELL_TIMEOUT_S}", f"--timeout={CELL_TIMEOUT_S + 60}"]
    if paths:
        notebooks = [path for path in paths if path.split("::")[0].endswith(".ipynb")]
        others = [path for path in paths if path not in notebooks]
        return ([Phase("tests", [*pytest, "--timeout=300", *others], one_thread)] if others else []) + (
            [Phase("lessons", [*lessons, *notebooks])] if notebooks else [])
    sources = [folder for folder in ("llmkit", "course", "tests", "lessons") if (ROOT / folder).exists()]
    unit = [*pytest, *side_by_side(), "--timeout=300", "--ignore=tests/browser", "--ignore=tests/benchmarks", "tests"]
    unit += SLOW if quick else []
    phases = [Phase("lint", ["ruff", "check", *sources]), Phase("unit", unit, one_thread)]
    if not quick:
        notebooks = [NETBLOCK / "canary.ipynb", *sorted((ROOT / "lessons").glob("*.ipynb"))]
        phases += [Phase("lessons", [*lessons, *map(str, notebooks)]),
                   Phase("browser", [*pytest, "--timeout=600", "tests/browser"])]
    return phases


def side_by_side() -> list[str]:
    """pytest's options to run files of tests in several processes: as many as cores and memory (2 GB each) allow."""
    n = min(cpu_count(), 4, int(memory_bytes() / 2e9))
    return ["-n", str(n), "--dist=loadfile"] if n > 1 else []


def count(report: Path) -> Counter:
    """Totals of a JUnit report."""
    total = Counter()
    for suite in ET.parse(report).getroot().iter("testsuite"):
        failed, skipped = int(suite.get("failures")) + int(suite.get("errors")), int(suite.get("skipped"))
        total += Counter(passed=max(0, int(suite.get("tests")) - failed - skipped), failed=failed, skipped=skipped)
    return total


def run(phase: Phase) -> Counter:
    """Run one phase, its output going straight to the terminal. Whatever ends early or runs nothing has failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", *phase.command]
        if phase.command[0] == "pytest":
            command.append(f"--junitxml={report}")
        learner = {"COURSE_PROGRESS": str(Path(folder) / "progress.json")}  # tests leave the learner's own alone
        environment = offline_environment() | phase.environment | learner
        try:
            code = subprocess.run(command, cwd=ROOT, env=environment, timeout=PHASE_TIMEOUT_S).returncode
        except subprocess.TimeoutExpired:
            code = f"no end within {PHASE_TIMEOUT_S // 60} minutes"
        if phase.command[0] == "ruff":
            return Counter(failed=1) if code else Counter(passed=1)
        total = count(report) if report.exists() else Counter()
    if not total or (code and not total["failed"] and code != NOTHING_RAN):
        print(f"{phase.name}: pytest ended with {code} before it was done", flush=True)
        total["failed"] += 1
    return total


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m course test", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="lint, unit tests and house rules only")
    parser.add_argument("paths", nargs="*", help="tests or notebooks (default: all)")
    args = parser.parse_args(argv)
    total, lines = Counter(), []
    for phase in plan(args.paths, args.quick):
        print(f"\n==== {phase.name} ====", flush=True)
        start = time.monotonic()
        result = run(phase)
        lines.append(f"{phase.name:8} {time.monotonic() - start:5.0f} s  {summary(result)}")
        total += result
    print("", *lines, summary(total), sep="\n", flush=True)
    return 1 if total["failed"] else 0


def summary(total: Counter) -> str:
    return f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped"


if __name__ == "__main__":
    sys.exit(main())
