"""A run that is killed again and again, at any moment, ends bit for bit where an undisturbed one ends."""

import json
import multiprocessing
import os
import random
import sys
import time

import pytest
import torch
from run_cases import results
from run_child import SAVE_EVERY, STEPS, train

from llmkit.checkpoint import read_tensors
from llmkit.run import Record

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL, fork and file limits are POSIX")
MOMENTS = ("half a log line", "half a state", "not yet renamed", "just renamed")


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")  # macOS forks badly
    context.set_forkserver_preload(["run_child"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # Python 3.11's server looks nowhere else
        yield context


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder)
    return folder


class Run:
    """A process that trains in `folder`."""

    def __init__(self, processes, folder, **options):
        self.pipe, end = processes.Pipe(duplex=False)
        self.process = processes.Process(target=train, args=(folder, end), kwargs=options)
        self.process.start()
        end.close()

    def heard(self):
        """What it says next; None when it is over."""
        assert self.pipe.poll(240), "the process says nothing any more"
        try:
            return self.pipe.recv()
        except EOFError:
            return None

    def kill(self):
        self.process.kill()  # SIGKILL
        self.process.join()
        return self.process.exitcode


def records_of(folder):
    return [Record(**json.loads(line)) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_equal_runs(folder, undisturbed):
    (tensors, info), (expected, whole) = (read_tensors(f / "state.safetensors") for f in (folder, undisturbed))
    assert tensors.keys() == expected.keys() and any(name.startswith("optimizer.") for name in tensors)
    for name, tensor in expected.items():
        assert tensor.dtype == tensors[name].dtype and torch.equal(tensor, tensors[name]), name
    assert {**info, "seconds": 0} == {**whole, "seconds": 0} and info["step"] == STEPS
    assert results(records_of(folder)) == results(records_of(undisturbed))
    assert sorted(f.name for f in folder.iterdir()) == ["log.jsonl", "state.safetensors"]


def test_the_undisturbed_run_is_a_run(undisturbed):
    records = records_of(undisturbed)
    assert [r.step for r in records] == list(range(1, STEPS + 1)) and records[-1].loss < records[0].loss


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments(processes, undisturbed, tmp_path, seed):
    draw, kills, run = random.Random(seed), 0, Run(processes, tmp_path)
    while kills < 9:
        for _ in range(draw.randint(1, 2 * SAVE_EVERY)):  # so many steps, and a bit
            assert run.heard() is not None, "the run was over before it was killed often enough"
        time.sleep(draw.random() * 0.02)
        assert run.kill() == -9
        kills, run = kills + 1, Run(processes, tmp_path)
    while run.heard() is not None:
        pass
    assert_equal_runs(tmp_path, undisturbed)


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_in_the_middle_of_a_write(processes, undisturbed, tmp_path, moment):
    for _ in range(2):
        run = Run(processes, tmp_path, moment=moment)
        while (heard := run.heard()) != moment:
            assert heard is not None, "the run went on past the moment"
        assert run.kill() == -9
    if moment != "half a log line":
        leftover = tmp_path / ".state.safetensors.unfinished"
        assert leftover.exists() and read_tensors(tmp_path / "state.safetensors")
    run = Run(processes, tmp_path)
    while run.heard() is not None:
        pass
    assert_equal_runs(tmp_path, undisturbed)


@pytest.mark.parametrize(("limit", "file"), [(20_000, "state.safetensors"), (2_000, "log.jsonl")])
def test_a_full_disk_stops_the_run_and_spoils_nothing(processes, undisturbed, tmp_path, limit, file):
    run, said = Run(processes, tmp_path, file_limit=limit), []
    while (heard := run.heard()) is not None:
        said.append(heard)
    run.process.join()
    *steps, message = said
    assert run.process.exitcode == 0 and "cannot write" in message and file in message and "Make room" in message
    _, info = read_tensors(tmp_path / "state.safetensors")
    assert info["step"] == 6 and 7 <= steps[-1] < STEPS
    assert sorted(f.name for f in tmp_path.iterdir()) == ["log.jsonl", "state.safetensors"]
    run = Run(processes, tmp_path)
    while run.heard() is not None:
        pass
    assert_equal_runs(tmp_path, undisturbed)
