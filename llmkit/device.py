"""The machine: which device and dtype, how many threads, seeds, time and memory; and what the hardware can do at most.

Threads come from what this process may use — CPU_LIMIT, the cgroup quota, the CPU affinity — not from the host's core
count: in a container limited to 2 of 64 cores, 64 threads would fight over 2.
"""

import functools
import os
import random
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch


@dataclass(frozen=True)
class Choice:
    """A decision with its reason, so that a notebook can print both: `print(device.threads())`."""

    value: object
    reason: str

    def __str__(self):
        return f"{self.value} ({self.reason})"


# --- threads -------------------------------------------------------------------------------------------------------


def cgroup_cpus(root: str | Path = "/sys/fs/cgroup", membership: str | Path = "/proc/self/cgroup") -> float | None:
    """CPUs that the cgroup quota allows (v2's cpu.max or v1's cpu.cfs_quota_us), or None where nothing limits them.

    Every level from this process's own group up to the root can limit; the tightest counts.
    """
    root, limits = Path(root), []
    for line in _read(membership).splitlines():
        _, controllers, group = line.split(":", 2)  # v2 "0::/user/job", v1 "4:cpu,cpuacct:/user/job"
        if controllers and "cpu" not in controllers.split(","):
            continue
        for base in (root, root / "unified") if not controllers else (root / "cpu", root / "cpu,cpuacct"):
            folder = base / group.lstrip("/")
            while True:
                limits.append(_quota(folder))
                if folder == base or base not in folder.parents:
                    break
                folder = folder.parent
    return min((limit for limit in limits if limit), default=None)


def _quota(folder: Path) -> float | None:
    if max_line := _read(folder / "cpu.max").split():  # v2: "200000 100000" or "max 100000"
        quota, period = max_line
    else:  # v1: -1 is no limit
        quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


@functools.cache
def threads() -> Choice:
    """The number of compute threads, decided and set in torch once; later calls give the same answer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [(cores, f"{cores} cores available")]
    if quota := cgroup_cpus():
        limits.append((quota, f"cgroup quota of {quota:g} CPUs"))
    for variable in ("CPU_LIMIT", "OMP_NUM_THREADS"):
        if value := os.environ.get(variable):
            try:
                limits.append((float(value), f"{variable}={value}"))
            except ValueError:
                raise ValueError(f"{variable}={value!r} must be a number of CPUs, as in {variable}=2") from None
    cpus, reason = min(limits, key=lambda limit: limit[0])
    count = max(1, int(cpus))
    torch.set_num_threads(count)
    return Choice(count, reason)


# --- device and dtype ----------------------------------------------------------------------------------------------


def best_device() -> Choice:
    """`value` is the torch.device to compute on: an NVIDIA or AMD GPU, else Apple's, else the CPU (threads set)."""
    if torch.cuda.is_available():
        return Choice(torch.device("cuda"), torch.cuda.get_device_name())
    if torch.backends.mps.is_available():
        return Choice(torch.device("mps"), "Apple GPU")
    count = threads()
    return Choice(torch.device("cpu"), f"no GPU; {count.value} threads: {count.reason}")


def best_dtype(device: torch.device | str) -> Choice:
    """`value` is the torch.dtype to train in (`Transformer.compute_in`): bfloat16 where the hardware multiplies it, as
    PyTorch tells of NVIDIA's and AMD's GPUs and of CPUs with AVX512-BF16 or AMX; float32 elsewhere."""
    kind = torch.device(device).type
    if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return Choice(torch.bfloat16, "this GPU multiplies bfloat16 in hardware")
    cpu = getattr(torch.cpu, "get_capabilities", dict)()  # older releases do not tell
    if kind == "cpu" and (cpu.get("avx512_bf16") or cpu.get("amx_bf16")):
        return Choice(torch.bfloat16, "this CPU multiplies bfloat16 in hardware")
    return Choice(torch.float32, "PyTorch tells of no hardware for bfloat16 here")


# --- seeds, time, memory -------------------------------------------------------------------------------------------


def seed_everything(seed: int) -> torch.Generator:
    """Seed Python, NumPy and torch on every device; returns a CPU generator with the same seed, for explicit use."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # all devices
    return torch.Generator().manual_seed(seed)


def synchronize(device: torch.device | str = "cpu"):
    """Wait until the device has done what was asked; GPUs return from a call before the work is done."""
    kind = torch.device(device).type
    if kind != "cpu":
        getattr(torch, kind).synchronize()


class Timer:
    """`with Timer(device) as t: ...` then `t.elapsed_s`: wall time, the device's work included."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = device
        self.elapsed_s = 0.0

    def __enter__(self):
        synchronize(self.device)
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exc):
        synchronize(self.device)
        self.elapsed_s = time.perf_counter() - self._start


def peak_memory_bytes(device: torch.device | str = "cpu") -> int | None:
    """The most memory used so far: allocated by torch on a CUDA device, by this whole process on a CPU.

    None where the platform does not tell (Windows' CPU, Apple's GPU).
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if kind != "cpu" or sys.platform == "win32":
        return None
    import resource  # POSIX only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


# --- what the hardware can do --------------------------------------------------------------------------------------


def matmul_peak_flops(device: torch.device | str = "cpu", dtype=torch.float32, repeats: int = 10) -> float:
    """FLOP/s of the fastest large square matrix product: the best size's median. A second or two on a CPU."""
    sizes = (1024, 2048) if torch.device(device).type == "cpu" else (4096, 8192)
    best = 0.0
    for n in sizes:
        a, b = torch.randn(2, n, n, device=device).to(dtype)
        out = torch.empty_like(a)
        seconds = _median_s(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device, repeats)
        best = max(best, 2 * n**3 / seconds)
    return best


def memory_bandwidth_bytes(device: torch.device | str = "cpu", repeats: int = 10) -> float:
    """Bytes/s read when summing a tensor much larger than the caches (256 MiB)."""
    x = torch.ones(64 * 2**20, device=device)
    return x.nbytes / _median_s(x.sum, device, repeats)


def _median_s(run, device, repeats: int) -> float:
    run()  # warm up
    times = []
    for _ in range(repeats):
        with Timer(device) as timer:
            run()
        times.append(timer.elapsed_s)
    return statistics.median(times)
