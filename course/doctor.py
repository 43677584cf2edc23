"""`python -m course doctor`: what stands in the way on this machine, and what to do. Needs no environment."""
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from course import env as environment
from course import machine, supported
from course.env import Environment

PROBE = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
broken = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        broken[name] = f"{type(error).__name__}: {error}"
torch = sys.modules.get("torch")
gpu = torch and (torch.cuda.get_device_name(0) if torch.cuda.is_available() else
                 "Apple GPU" if torch.backends.mps.is_available() else None)
print(json.dumps({"broken": broken, "torch": torch and str(torch.__version__), "gpu": gpu}))
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report; `verdict` is "ok", "warning" or "problem"."""

    verdict: str
    topic: str
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:8} {self.topic:10} {self.text}"


def examine(env: Environment) -> list[Finding]:
    """All findings, in the order in which they are best put right."""
    ready = environment.is_ready(env)
    imports = probe_imports(env) if ready else None
    return [
        python(sys.version_info, sys.implementation.name),
        trouble_or("platform", machine.platform_trouble(), f"{platform.system()} {platform.machine()}"),
        trouble_or("venv", machine.venv_trouble(), "Python can make environments"),
        memory(machine.memory_bytes()),
        disk(shutil.disk_usage(env.repo).free, env.repo, ready),
        threads(machine.cpu_count(), machine.cpu_quota(), os.environ.get("OMP_NUM_THREADS")),
        gpu(machine.nvidia_gpu(), imports),
        network(machine.pip_reaches_packages(env.python if ready else Path(sys.executable)), ready),
        packages(environment.missing(env), ready, imports),
    ]


def python(version, implementation: str) -> Finding:
    return trouble_or("python", supported.python_trouble(version, implementation), ".".join(map(str, version[:3])))


def memory(total_bytes: int) -> Finding:
    size = f"{total_bytes / 1e9:.1f} GB"
    if total_bytes < 1.8e9:
        return Finding("problem", "memory", f"{size}; a lesson needs up to 1 GB beside the browser: use Colab")
    if total_bytes < 3.8e9:
        return Finding("warning", "memory", f"{size}; run one lesson at a time and close other programs")
    return Finding("ok", "memory", size)


def disk(free_bytes: int, folder: Path, ready: bool) -> Finding:
    needed = 0.5e9 if ready else environment.CPU_BYTES
    return trouble_or("disk", machine.disk_trouble(free_bytes, needed, folder), f"{free_bytes / 1e9:.1f} GB free")


def threads(cpus: int, quota: float | None, omp: str | None) -> Finding:
    text = f"{cpus} CPUs" + (f", of which this container may use {quota:.1f}" if quota else "")
    if omp:
        text += f"; OMP_NUM_THREADS={omp}"
        if omp.isdecimal() and int(omp) > min(cpus, quota or cpus):
            return Finding("warning", "threads", text + " is more than there are, which is slow: unset it")
    if min(cpus, quota or cpus) < 2:
        return Finding("warning", "threads", text + "; training in the lessons takes about twice as long")
    return Finding("ok", "threads", text)


def gpu(driver: str | None, imports: dict | None) -> Finding:
    if imports and imports["gpu"]:
        return Finding("ok", "gpu", imports["gpu"])
    if driver and imports:
        return Finding("warning", "gpu", f"{driver}, but PyTorch {imports['torch']} does not use it: delete the folder "
                       ".venv and run python -m course")
    return Finding("ok", "gpu", driver or "none; the course does not need one")


def network(reached: bool | None, ready: bool) -> Finding:
    if reached:
        return Finding("ok", "network", "pip reaches its packages")
    what = "not checked, this Python has no pip" if reached is None else "pip gets no answer"
    if ready:
        return Finding("ok", "network", f"{what}; all is installed and nothing needs it")
    return Finding("warning", "network", f"{what}; the first start needs it: connect, behind a proxy set HTTPS_PROXY")


def packages(missing: list[str], ready: bool, imports: dict | None) -> Finding:
    if not ready:
        what = f"not installed: {', '.join(missing)}" if missing else "not up to date with requirements.txt"
        return Finding("warning", "packages", f"{what}. python -m course installs them")
    if imports["broken"]:
        first, error = next(iter(imports["broken"].items()))
        return Finding("problem", "packages", f"{first} cannot be loaded ({error}): delete the folder .venv and run "
                       "python -m course")
    return Finding("ok", "packages", f"complete, PyTorch {imports['torch']}")


def probe_imports(env: Environment) -> dict:
    """Load every required package in the environment; {"broken": {name: error}, "torch": version, "gpu": name}."""
    names = [line.replace("-", "_") for line in environment.names(env)]
    try:
        done = subprocess.run([str(env.python), "-c", PROBE, *names], capture_output=True, encoding="utf-8",
                              errors="replace", timeout=120, env=env.variables())
        return json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return {"broken": {"python": f"{type(error).__name__}: {error}"}, "torch": None, "gpu": None}


def trouble_or(topic: str, trouble: str | None, text: str) -> Finding:
    return Finding("problem", topic, trouble) if trouble else Finding("ok", topic, text)
