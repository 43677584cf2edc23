"""device: thread limits read from real cgroup layouts, seeds, and measurements that are possible numbers."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from llmkit import device


def cgroup(tmp_path, membership, files):
    (tmp_path / "cgroup").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return device.cgroup_cpus(tmp_path / "fs", tmp_path / "cgroup")


@pytest.mark.parametrize(
    "membership, files, expected",
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "a/cpu.max": "200000 100000\n"}, 0.5),
        ("4:cpu,cpuacct:/j\n", {"cpu/j/cpu.cfs_quota_us": "300000", "cpu/j/cpu.cfs_period_us": "100000"}, 3.0),
        ("4:cpu:/gone\n", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("3:memory:/\n0::/\n", {"unified/cpu.max": "100000 100000\n"}, 1.0),
        ("", {}, None),
    ],
)
def test_cgroup_quota(tmp_path, membership, files, expected):
    assert cgroup(tmp_path, membership, files) == expected


THREADS = """import os, torch
from llmkit import device
print(torch.get_num_threads(), device.threads(), torch.get_num_threads())
device.threads.cache_clear()
os.environ["CPU_LIMIT"] = "two"
device.threads()"""


def test_cpu_limit_decides_and_says_so():
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "CPU_LIMIT": "0.5"}
    done = subprocess.run([sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "2 1 (CPU_LIMIT=0.5) 1"
    assert "CPU_LIMIT='two' must be a number" in done.stderr


def test_device_and_dtype_say_what_they_chose():
    choice = device.best_device()
    assert choice.value.type in ("cuda", "mps", "cpu") and choice.reason in str(choice)


@pytest.mark.parametrize("flags, dtype", [({"avx512_bf16": True}, torch.bfloat16), ({"avx512_f": True}, torch.float32)])
def test_a_cpu_trains_in_bfloat16_only_if_it_multiplies_it_in_hardware(flags, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert device.best_dtype("cpu").value == dtype


def test_seeding_repeats_every_source_of_randomness():
    def draw():
        generator = device.seed_everything(5)
        return random.random(), np.random.rand(), torch.rand(1).item(), torch.rand(1, generator=generator).item()

    assert draw() == draw()


def test_timer_measures():
    with device.Timer() as timer:
        torch.randn(200, 200) @ torch.randn(200, 200)
    assert timer.elapsed_s > 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_peak_memory_sees_an_allocation():
    before = device.peak_memory_bytes()
    block = torch.ones(device.peak_memory_bytes() // 4 + 50_000_000)  # 4 bytes each: above the peak so far
    assert device.peak_memory_bytes() >= before + 150_000_000
    assert block.nbytes > 0
