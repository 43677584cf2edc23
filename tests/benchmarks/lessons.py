"""What a lesson costs: every cell twice in one kernel, offline.  `python -m tests.benchmarks.lessons [NUMBER ...]`

A learner who runs a lesson pays for the first pass; the second shows that cells can be run again, and what of the first
was start-up. The notebooks are read, never written; the kernel works in a folder of its own, with the tests' network
block. Memory is the most that the kernel's process held in RAM at once (Linux alone tells), errors are cells that
raised, in either pass. All nine lessons take about half an hour on two free cores.
"""

import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from course.testing import CELL_TIMEOUT_S, ROOT, offline_environment

PEAK_KIB = "print(next((s.split()[1] for s in open('/proc/self/status') if s.startswith('VmHWM')), 'nan'))"


def run_twice(path: Path) -> tuple[list[float], float, list[str]]:
    """(seconds of each pass, peak resident MB, "pass 2, cell 7: NameError: ..." of each error) of a notebook."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        environment = offline_environment() | {"COURSE_PROGRESS": str(Path(folder) / "progress.json")}
        client = NotebookClient(notebook, timeout=CELL_TIMEOUT_S, allow_errors=True, kernel_name="python3")
        client.extra_arguments = ["--log-level=ERROR"]  # of the kernel itself
        seconds, errors = [], []
        with client.setup_kernel(env=environment, cwd=folder):
            for turn in (1, 2):
                start = time.perf_counter()
                for number, cell in enumerate(notebook.cells):
                    client.execute_cell(cell, number)
                    errors += [f"pass {turn}, cell {number}: {error}" for error in raised(cell)]
                seconds.append(time.perf_counter() - start)
            notebook.cells.append(nbformat.v4.new_code_cell(PEAK_KIB))
            told = client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1).outputs[0]
    return seconds, float(told.get("text", "nan")) * 1024 / 1e6, errors


def raised(cell) -> list[str]:
    """What a cell raised, or printed of an exception in a thread or a callback."""
    outputs = cell.get("outputs", [])
    printed = [o.text for o in outputs if "Traceback (most recent call last)" in o.get("text", "")]
    in_the_cell = [f"{o.ename}: {o.evalue}" for o in outputs if o.output_type == "error"]
    return in_the_cell + [text.strip().split("\n")[-1] for text in printed]


def main(*numbers: str, folder: Path = ROOT / "lessons") -> int:
    paths = [path for path in sorted(folder.glob("*.ipynb")) if not numbers or path.name.startswith(numbers)]
    print(f"{'lesson':<24} {'first s':>8} {'second s':>8} {'peak MB':>8}   errors", flush=True)
    failed = 0
    for path in paths:
        try:
            seconds, peak_mb, errors = run_twice(path)
        except (CellTimeoutError, DeadKernelError) as error:
            nan = float("nan")
            seconds, peak_mb, errors = [nan, nan], nan, [f"{type(error).__name__}: the run ended there"]
        print(f"{path.stem:<24} {seconds[0]:8.1f} {seconds[1]:8.1f} {peak_mb:8.0f}   {len(errors)}", flush=True)
        for error in errors:
            print(f"    {error}", flush=True)
        failed += len(errors)
    return 1 if failed or not paths else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
