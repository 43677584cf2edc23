"""What holds for every test: with CI=true a skipped parity or browser test is a failure; hypothesis is reproducible."""
import os
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).resolve().parent
MUST_RUN = (TESTS / "parity", TESTS / "browser")

settings.register_profile("course", deadline=None, derandomize=True)
settings.load_profile("course")


def forbid_skip(report, path):
    """Turn a skip into a failure where the full environment is promised."""
    must_run = any(folder in Path(path).resolve().parents for folder in MUST_RUN)
    if report.skipped and not hasattr(report, "wasxfail") and must_run and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI counts as a failure: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    return forbid_skip((yield), item.path)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return forbid_skip((yield), collector.path)
