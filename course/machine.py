"""Facts about this machine, read with the standard library alone: memory, threads, disk, GPU, network."""
import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from course import supported

CGROUP = Path("/sys/fs/cgroup")
NETWORK_S = 6


class Trouble(Exception):
    """Something that the learner can put right; the text is a sentence or two that say how."""


def require_supported() -> None:
    """Raise Trouble when this platform, or this Python's set of modules, cannot hold the course."""
    if sentence := platform_trouble() or venv_trouble():
        raise Trouble(sentence)


def platform_trouble() -> str | None:
    bits = 64 if sys.maxsize > 2**32 else 32
    libc = sysconfig.get_config_var("HOST_GNU_TYPE") or ""
    return supported.platform_trouble(sys.platform, platform.machine(), bits, libc)


def venv_trouble() -> str | None:
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    return supported.venv_trouble(missing, sys.version_info, Path("/etc/debian_version").exists())


def require_disk(folder: Path, needed_bytes: float) -> None:
    if sentence := disk_trouble(shutil.disk_usage(folder).free, needed_bytes, folder):
        raise Trouble(sentence)


def disk_trouble(free_bytes: float, needed_bytes: float, folder: Path) -> str | None:
    if free_bytes >= needed_bytes:
        return None
    return (f"{folder} has {free_bytes / 1e9:.1f} GB free and the course needs {needed_bytes / 1e9:.1f} GB. "
            "Free some space and start again.")


def memory_bytes() -> int:
    """Memory this process may use: the machine's, or its container's limit where that is lower."""
    if sys.platform == "win32":
        return _windows_memory_bytes()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *_cgroup_numbers("memory.max"), *_cgroup_numbers("memory/memory.limit_in_bytes")])


def cpu_quota() -> float | None:
    """CPUs that the container may use (cgroup v2, then v1), or None without a limit."""
    pair = _cgroup_numbers("cpu.max")
    if len(pair) == 2:
        return pair[0] / pair[1]
    quota, period = _cgroup_numbers("cpu/cpu.cfs_quota_us"), _cgroup_numbers("cpu/cpu.cfs_period_us")
    return quota[0] / period[0] if quota and period and quota[0] > 0 else None


def cpu_count() -> int:
    """CPUs that this process may run on, before any quota."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def nvidia_gpu() -> str | None:
    """The name of the first NVIDIA GPU that the driver answers for, or None."""
    if not (tool := shutil.which("nvidia-smi")):
        return None
    try:
        found = subprocess.run([tool, "-L"], capture_output=True, encoding="utf-8", errors="replace", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.splitlines()[0] if found.returncode == 0 and found.stdout.startswith("GPU") else None


def pip_reaches_packages(python: Path) -> bool | None:
    """Whether that Python's pip gets an answer, from wherever it is set up to look; None when it has no pip.

    pip waits 2 s for the network; NETWORK_S bounds all of it, pip's own start and name resolution included.
    """
    ask = [str(python), "-m", "pip", "index", "versions", "safetensors", "--retries", "0", "--timeout", "2"]
    try:
        answer = subprocess.run(ask, capture_output=True, encoding="utf-8", errors="replace", timeout=NETWORK_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return None if "No module named pip" in answer.stderr else answer.returncode == 0


def _cgroup_numbers(name: str) -> list[int]:
    try:
        return [int(word) for word in (CGROUP / name).read_text(encoding="utf-8").split()]
    except (OSError, ValueError):  # no such file, or the word "max"
        return []


def _windows_memory_bytes() -> int:
    class MemoryStatus(ctypes.Structure):  # MEMORYSTATUSEX
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong), ("total", ctypes.c_ulonglong)] + [
            (name, ctypes.c_ulonglong) for name in ("free", "page", "page_free", "virtual", "virtual_free", "extended")
        ]

    status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return status.total
