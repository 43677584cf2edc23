"""Runs committed lessons under nbval (`python -m course.testing lessons/06_pretraining.ipynb` does it).

What nbval lacks for us: it refuses outputs of cells without an execution count (ours are null), waits for the whole
cell timeout when a kernel dies, and passes an exception that a thread or a callback only prints.
"""
import queue
import time

import nbval.kernel
import nbval.plugin
import pytest


class Kernel(nbval.kernel.RunningKernel):
    """nbval's kernel whose death is an error within a second."""

    def get_message(self, stream, timeout=None):
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while True:
            try:
                return super().get_message(stream, timeout=max(0.0, min(1.0, deadline - time.monotonic())))
            except queue.Empty:
                if not self.is_alive():
                    raise RuntimeError("the kernel died: killed for its memory, or the process ended itself") from None
                if time.monotonic() >= deadline:
                    raise


def pytest_configure(config):
    nbval.plugin.RunningKernel = Kernel


def pytest_collection_modifyitems(items):
    for item in items:
        if isinstance(item, nbval.plugin.IPyNbCell):
            item.cell.execution_count = item.cell_num + 1


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    result = yield
    for output in getattr(item, "test_outputs", None) or []:
        if output.get("name") == "stderr" and "Traceback (most recent call last)" in output.text:
            pytest.fail(f"an exception was printed, not raised:\n{output.text}", pytrace=False)
    return result
