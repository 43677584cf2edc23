"""The course's own environment, `.venv`: made once, stamped, and from then on found in milliseconds.

Standard library only. pip does the installing, in an order that can be interrupted anywhere and run again. Only the
CPU build of PyTorch on Linux comes through uv, which knows by itself where that build lies; when uv or that place is
out of reach, pip takes the plain pin. The stamp, a hash of what was asked for, is written last.
"""
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from course import machine, piplog
from course.machine import Trouble

REPO = Path(__file__).resolve().parent.parent
CPU_BYTES = 2.5e9  # .venv with the CPU build, 1.4 GB on Linux, and pip's downloads beside it
CUDA_BYTES = 10e9  # a generous guess for the build with PyTorch's CUDA libraries
REST_BYTES = 1e9  # once PyTorch is there
TEST_BYTES = 1.5e9
UV = "uv>=0.8,<1"
PATIENCE = ["--timeout", "20", "--retries", "2"]
UV_PATIENCE = {"UV_HTTP_TIMEOUT": "20", "UV_HTTP_RETRIES": "1"}

Run = Callable[[list[str], dict[str, str], Path], tuple[int, str]]


@dataclass(frozen=True)
class Environment:
    """Where things are in `<repo>/.venv`."""

    repo: Path = REPO

    @property
    def folder(self) -> Path:
        return self.repo / ".venv"

    @property
    def python(self) -> Path:
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def site_packages(self) -> Path:
        if os.name == "nt":
            return self.folder / "Lib/site-packages"
        return next(self.folder.glob("lib/python3*/site-packages"), self.folder / "lib/site-packages")

    @property
    def requirements(self) -> Path:
        return self.repo / "requirements.txt"

    @property
    def log(self) -> Path:
        return self.folder / "install.log"

    def stamp(self, what: str) -> Path:
        return self.folder / f"{what}.sha256"

    def variables(self) -> dict[str, str]:
        """This process's environment variables, without those that would lead Python or pip out of `.venv`."""
        outside = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV")
        kept = {name: value for name, value in os.environ.items() if name not in outside}
        return kept | {"PIP_USER": "0", "VIRTUAL_ENV": str(self.folder), "PYTHONUTF8": "1"}


def is_ready(env: Environment) -> bool:
    """Whether `.venv` holds what requirements.txt asks for; no process is started to find out."""
    return env.python.exists() and _stamped(env, "course", _lines(env)) and not missing(env)


def ensure(env: Environment, run: Run = piplog.run) -> None:
    """Make `.venv` complete, or raise Trouble with a sentence. Does nothing when it already is."""
    if is_ready(env):
        return
    machine.require_supported()
    gpu = machine.nvidia_gpu()
    machine.require_disk(env.repo, REST_BYTES if _has_torch(env) else CUDA_BYTES if gpu else CPU_BYTES)
    print("Completing the course's environment in .venv; the first time this takes a few minutes.", flush=True)
    _make_venv(env)
    forget_halves(env.site_packages)
    if sys.platform == "linux" and not gpu and not _has_torch(env):
        _install_cpu_torch(env, run)
    _pip(env, run, ["-r", str(env.requirements)])
    link(env.repo, env.site_packages)
    _write_stamp(env, "course", _lines(env))
    print("The environment is complete.", flush=True)


def ensure_tests(env: Environment, run: Run = piplog.run) -> None:
    """Add what the tests need, pyproject.toml's extras [dev] and [parity], within the bounds of requirements.txt."""
    ensure(env, run)
    project = tomllib.loads((env.repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = extras["dev"] + extras["parity"]
    if _stamped(env, "tests", _lines(env) + wanted) and not missing(env, wanted):
        return
    machine.require_disk(env.repo, TEST_BYTES)
    print("Adding what the tests need.", flush=True)
    forget_halves(env.site_packages)
    _pip(env, run, ["-c", str(env.requirements), *wanted])
    _write_stamp(env, "tests", _lines(env) + wanted)


def missing(env: Environment, requirements: Iterable[str] | None = None) -> list[str]:
    """Names from `requirements` (default requirements.txt) that have no complete installation in `.venv`."""
    found = {_normal(folder.name.split("-")[0]) for folder in _complete(env.site_packages)}
    return [name for name in names(env, requirements) if _normal(name) not in found]


def names(env: Environment, requirements: Iterable[str] | None = None) -> list[str]:
    """The packages' names in `requirements` (default requirements.txt), without their versions."""
    return [re.match(r"[\w.-]+", line).group() for line in requirements or _lines(env)]


def forget_halves(site_packages: Path) -> None:
    """Remove the record of packages whose installation was cut off, so that pip installs them again.

    pip takes a package for installed as soon as its metadata is there, and writes INSTALLER after its last file.
    """
    complete = set(_complete(site_packages))
    for folder in site_packages.glob("*.dist-info"):
        if folder not in complete:
            shutil.rmtree(folder)


def link(repo: Path, site_packages: Path) -> None:
    """Make `import llmkit` and `import course` work from any folder; a relative path, so the repository may move."""
    (site_packages / "course.pth").write_text(os.path.relpath(repo, site_packages) + "\n", encoding="utf-8")


def _make_venv(env: Environment) -> None:
    asks_pip = [str(env.python), "-m", "pip", "--version"]
    if env.python.exists() and subprocess.run(asks_pip, capture_output=True).returncode == 0:
        return
    make = [sys.executable, "-m", "venv", "--clear", str(env.folder)]
    made = subprocess.run(make, capture_output=True, encoding="utf-8", errors="replace", env=env.variables())
    if made.returncode:
        raise Trouble(f"Python could not make {env.folder}: {piplog.explain(made.stdout + made.stderr)}")


def _install_cpu_torch(env: Environment, run: Run) -> None:
    uv = [str(env.python), "-m", "uv", "pip", "install", "--python", str(env.python), "--no-deps"]
    variables = env.variables() | UV_PATIENCE
    pip = [str(env.python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    print("PyTorch's CPU build:", flush=True)
    code, _ = run([*pip, *PATIENCE, UV], variables, env.log)
    if code == 0:
        code, _ = run([*uv, "--torch-backend", "cpu", _torch_pin(env)], variables, env.log)
    if code:
        forget_halves(env.site_packages)
        print("  out of reach here; taking the default build instead, which can be several GB larger.", flush=True)


def _torch_pin(env: Environment) -> str:
    return next(line for line in _lines(env) if line.startswith("torch=="))


def _has_torch(env: Environment) -> bool:
    version = _torch_pin(env).removeprefix("torch==")
    return any(folder.name.startswith(f"torch-{version}") for folder in _complete(env.site_packages))


def _pip(env: Environment, run: Run, arguments: list[str]) -> None:
    command = [str(env.python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--prefer-binary"]
    code, output = run([*command, "--progress-bar", "off", *PATIENCE, *arguments], env.variables(), env.log)
    if code:
        raise Trouble(piplog.explain(output, env.log))


def _lines(env: Environment) -> list[str]:
    """The requirements, one a line, without comments."""
    lines = (line.split("#")[0].strip() for line in env.requirements.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def _complete(site_packages: Path) -> list[Path]:
    return [path.parent for path in site_packages.glob("*.dist-info/INSTALLER")]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _stamped(env: Environment, what: str, lines: list[str]) -> bool:
    stamp = env.stamp(what)
    return stamp.exists() and stamp.read_text(encoding="utf-8").strip() == _digest(lines)


def _write_stamp(env: Environment, what: str, lines: list[str]) -> None:
    env.stamp(what).write_text(_digest(lines) + "\n", encoding="utf-8")
