"""This library beside its peers and beside the machine.  `python -m tests.benchmarks [NAME ...]`

Every benchmark, one after the other, each in a process of its own, the quick ones first; or those named. Before each
stands what the machine can do at most at that moment, measured: matrix products and memory. Nothing else should run.
"""

import subprocess
import sys

from course.testing import ROOT
from tests.benchmarks.measure import limits

MINUTES = {"tokenizer": 1, "moe": 1, "decoding": 1, "training": 4, "gpu": 10, "recipes": 15, "lessons": 40}


def main(*names: str) -> int:
    if unknown := set(names) - set(MINUTES):
        sys.exit(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(MINUTES)}")
    failed = []
    for name in names or MINUTES:
        print(f"\n==== {name} (about {MINUTES[name]} min) ====\n{limits()}", flush=True)
        if subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}"], cwd=ROOT).returncode:
            failed.append(name)
    print(f"\n{len(names or MINUTES) - len(failed)} done" + (f", failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
