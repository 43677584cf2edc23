"""The environment: every way in which making it can be cut short or fail, with pip, uv and the network faked."""
import errno
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from course import commands, env, machine, piplog, supported
from course.env import Environment
from course.machine import Trouble

REQUIREMENTS = "# comment\ntorch==2.13.0\nresvg-py>=0.3,<1  # eyes\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A repository whose .venv is made without starting a process."""
    (tmp_path / "requirements.txt").write_text(REQUIREMENTS)
    (tmp_path / "pyproject.toml").write_text(
        '[project.optional-dependencies]\ndev = ["nbval>=0.11"]\nparity = ["scipy>=1.15"]\n')
    here = Environment(tmp_path)

    def make_venv(place):
        place.site_packages.mkdir(parents=True, exist_ok=True)
        place.python.parent.mkdir(parents=True, exist_ok=True)
        place.python.touch()

    monkeypatch.setattr(env, "_make_venv", make_venv)
    monkeypatch.setattr(machine, "nvidia_gpu", lambda: None)
    monkeypatch.setattr(machine, "require_disk", lambda folder, needed: None)
    monkeypatch.setattr(sys, "platform", "linux")
    return here


def install(place, *distributions, complete=True):
    for distribution in distributions:
        folder = place.site_packages / f"{distribution}.dist-info"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "METADATA").touch()
        if complete:
            (folder / "INSTALLER").write_text("pip\n")


class Installer:
    """Plays pip and uv: keeps the commands, installs what is asked for, fails where it is told to."""

    def __init__(self, place, fails=None, output=""):
        self.place, self.fails, self.output, self.commands = place, fails, output, []

    def __call__(self, command, variables, log):
        words = " ".join(command)
        self.commands.append(words.split(str(self.place.python) + " -m ")[1])
        if self.fails and self.fails in words:
            return 1, self.output
        if "-r" in command or "--torch-backend" in command:
            install(self.place, "torch-2.13.0+cpu")
        if "-r" in command:
            install(self.place, "resvg_py-0.5.0")
        if "-c" in command:
            install(self.place, "nbval-0.11.0", "scipy-1.17.1")
        return 0, ""


def test_first_start_prefers_the_cpu_build_and_second_does_nothing(place):
    run = Installer(place)
    env.ensure(place, run)
    assert [line.split()[0] for line in run.commands] == ["pip", "uv", "pip"]
    assert run.commands[1].endswith("--torch-backend cpu torch==2.13.0")
    assert env.is_ready(place) and (place.site_packages / "course.pth").exists()
    env.ensure(place, run)
    assert len(run.commands) == 3


@pytest.mark.parametrize("broken", ["--torch-backend", "uv>="])
def test_without_uv_or_its_index_the_plain_pin_is_taken(place, broken):
    run = Installer(place, fails=broken)
    env.ensure(place, run)
    assert "-r" in run.commands[-1].split() and env.is_ready(place)
    assert len(run.commands) == (3 if broken == "--torch-backend" else 2)


@pytest.mark.parametrize("name", ["require_supported", "require_disk"])
def test_platform_and_disk_are_looked_at_before_anything_is_made(place, monkeypatch, name):
    def refuse(*facts):
        raise Trouble(name)

    monkeypatch.setattr(machine, name, refuse)
    with pytest.raises(Trouble, match=name):
        env.ensure(place, Installer(place))
    assert not place.folder.exists()


def test_how_much_disk_depends_on_what_is_still_to_come(place, monkeypatch):
    asked = []
    monkeypatch.setattr(machine, "require_disk", lambda folder, needed: asked.append(needed))
    monkeypatch.setattr(machine, "nvidia_gpu", lambda: "GPU 0: a card")
    env.ensure_tests(place, Installer(place))
    place.requirements.write_text(REQUIREMENTS + "plotly>=6\n")
    env.ensure(place, Installer(place))
    assert asked == [env.CUDA_BYTES, env.TEST_BYTES, env.REST_BYTES]


@pytest.mark.parametrize(("platform", "gpu"), [("linux", "GPU 0: a card"), ("darwin", None), ("win32", None)])
def test_elsewhere_pip_alone_installs(place, monkeypatch, platform, gpu):
    monkeypatch.setattr(machine, "require_supported", lambda: None)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(machine, "nvidia_gpu", lambda: gpu)
    run = Installer(place)
    env.ensure(place, run)
    assert len(run.commands) == 1 and "torch-backend" not in run.commands[0]


def test_a_cut_off_package_is_installed_again(place):
    env.ensure(place, Installer(place))
    (place.site_packages / "resvg_py-0.5.0.dist-info" / "INSTALLER").unlink()
    assert env.missing(place) == ["resvg-py"] and not env.is_ready(place)
    run = Installer(place)
    env.ensure(place, run)
    assert len(run.commands) == 1 and env.is_ready(place)  # torch is there and is not fetched again


def test_halves_are_forgotten_and_whole_packages_stay(place):
    install(place, "torch-2.13.0+cpu")
    install(place, "numpy-2.4.6", complete=False)
    env.ensure(place, lambda command, variables, log: (0, ""))
    assert [folder.name for folder in place.site_packages.glob("*.dist-info")] == ["torch-2.13.0+cpu.dist-info"]


def test_a_failed_installation_leaves_no_stamp_and_resumes(place):
    with pytest.raises(Trouble, match="network cannot be reached, and torch is not installed"):
        env.ensure(place, Installer(place, " -r ", "NewConnectionError\nNo matching distribution found for torch==2"))
    assert not env.is_ready(place)
    env.ensure(place, Installer(place))
    assert env.is_ready(place)


def test_new_requirements_are_installed(place):
    env.ensure(place, Installer(place))
    place.requirements.write_text(REQUIREMENTS + "plotly>=6\n")
    assert not env.is_ready(place) and env.missing(place) == ["plotly"]


def test_another_torch_version_comes_from_the_cpu_index_again(place):
    env.ensure(place, Installer(place))
    place.requirements.write_text(REQUIREMENTS.replace("2.13.0", "2.14.0"))
    run = Installer(place)
    env.ensure(place, run)
    assert run.commands[1].endswith("torch==2.14.0")


def test_test_dependencies_are_constrained_and_stamped(place):
    run = Installer(place)
    env.ensure_tests(place, run)
    assert run.commands[-1].endswith(f"-c {place.requirements} nbval>=0.11 scipy>=1.15")
    before = len(run.commands)
    env.ensure_tests(place, run)
    assert len(run.commands) == before and env.is_ready(place)
    (place.site_packages / "scipy-1.17.1.dist-info" / "INSTALLER").unlink()
    env.ensure_tests(place, run)
    assert len(run.commands) == before + 1 and env.missing(place, ["scipy"]) == []


def test_a_full_disk_is_a_sentence(tmp_path):
    with pytest.raises(Trouble, match=r"GB free and the course needs 1000000000\.0 GB"):
        machine.require_disk(tmp_path, 1e18)


@pytest.mark.parametrize(("stderr", "words"), [
    ("Error: [Errno 28] No space left on device", "the disk is full"),
    ("Error: [Errno 30] Read-only file system: '/course/.venv'", "could not be written")])
def test_venv_that_cannot_be_made_is_a_sentence(tmp_path, monkeypatch, stderr, words):
    failed = SimpleNamespace(returncode=1, stdout="", stderr=stderr)
    monkeypatch.setattr(env.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(Trouble, match=words) as trouble:
        env._make_venv(Environment(tmp_path))
    assert "install.log" not in str(trouble.value)  # which was not written yet


@pytest.mark.parametrize(("python", "has_pip", "made"), [(True, True, 0), (True, False, 1), (False, True, 1)])
def test_an_environment_with_pip_is_kept_and_any_other_made_anew(tmp_path, monkeypatch, python, has_pip, made):
    here, commands = Environment(tmp_path), []

    def run(command, **options):
        commands.append(command)
        return SimpleNamespace(returncode=int(command[0] == str(here.python) and not has_pip), stdout="", stderr="")

    if python:
        here.python.parent.mkdir(parents=True)
        here.python.touch()
    monkeypatch.setattr(env.subprocess, "run", run)
    env._make_venv(here)
    assert [command[1:4] for command in commands].count(["-m", "venv", "--clear"]) == made


def test_the_link_survives_moving_the_repository(tmp_path):
    site_packages = tmp_path / "before" / ".venv" / "lib" / "python3.11" / "site-packages"
    site_packages.mkdir(parents=True)
    env.link(tmp_path / "before", site_packages)
    (tmp_path / "before").rename(tmp_path / "after")
    moved = tmp_path / "after" / site_packages.relative_to(tmp_path / "before")
    line = (moved / "course.pth").read_text().strip()
    assert (moved / line).resolve() == tmp_path / "after"  # site joins a relative line with the .pth file's folder


def test_variables_do_not_lead_out_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PIP_USER", "1")
    variables = Environment(tmp_path).variables()
    assert "PYTHONPATH" not in variables and variables["PIP_USER"] == "0"


# ---- sentences ----

@pytest.mark.parametrize(("version", "implementation", "words"), [
    ((2, 7), "cpython", "this is Python 2.7"), ((3, 10, 13), "cpython", "3.11 to 3.14"), ((3, 15), "cpython", "3.15"),
    ((3, 12), "pypy", "needs CPython")])
def test_unsupported_python(version, implementation, words):
    assert words in supported.python_trouble(version, implementation)


@pytest.mark.parametrize("minor", [11, 12, 13, 14])
def test_supported_python(minor):
    assert supported.python_trouble((3, minor, 0)) is None


@pytest.mark.parametrize(("facts", "words"), [
    (("darwin", "x86_64"), "Colab"), (("win32", "ARM64"), "Colab"), (("linux", "x86_64", 32), "32-bit"),
    (("linux", "x86_64", 64, "x86_64-alpine-linux-musl"), "Colab"), (("linux", "riscv64"), "Colab"),
    (("freebsd14", "amd64"), "Colab")])
def test_unsupported_platform(facts, words):
    assert words in supported.platform_trouble(*facts)


@pytest.mark.parametrize("facts", [
    ("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64")])
def test_supported_platform(facts):
    assert supported.platform_trouble(*facts) is None


def test_missing_ensurepip_names_the_debian_package():
    assert supported.venv_trouble(["ensurepip"], (3, 12), debian=True).endswith("apt-get install python3.12-venv")
    assert "apt-get" not in supported.venv_trouble(["ensurepip"], (3, 12), debian=False)
    assert supported.venv_trouble([], (3, 12), debian=True) is None


@pytest.mark.parametrize(("output", "words"), [
    ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
    ("OSError: [Errno 122] Disk quota exceeded", "disk is full"),
    ("Max retries exceeded ... SSLError(SSLCertVerificationError(1, CERTIFICATE_VERIFY_FAILED", "PIP_CERT"),
    ("WARNING: Retrying ... NameResolutionError\nERROR: No matching distribution found for torch==2.13.0",
     "torch is not installed yet"),
    ("ERROR: No matching distribution found for torch==2.13.0", "torch is not offered"),
    ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "arrived damaged"),
    ("PermissionError: [Errno 13] Permission denied", "could not be written"),
    ("something new\n", "something new")])
def test_an_installers_failure_is_a_sentence(output, words, tmp_path):
    sentence = piplog.explain(output, tmp_path / "install.log")
    assert words in sentence and "install.log" in sentence and "\n" not in sentence


@pytest.mark.parametrize(("line", "short"), [
    ("  Downloading jupyterlab-4.6.6-py3-none-any.whl (17.3 MB)", "downloading jupyterlab-4.6.6 (17.3 MB)"),
    ("Downloading torch (181.2MiB)", "downloading torch (181.2MiB)"),
    ("  Downloading six-1.17.0-py2.py3-none-any.whl (11 kB)", None),
    ("Collecting torch==2.13.0", None),
    ("Installing collected packages: a, b, c", "installing 3 packages; this takes a minute or two")])
def test_progress_is_short(line, short):
    assert piplog.condense(line) == short


def test_a_silent_installer_shows_signs_of_life(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(piplog, "HEARTBEAT_S", 0.05)
    script = "import time; time.sleep(0.3); print('the end'); raise SystemExit(3)"
    code, output = piplog.run([sys.executable, "-c", script], {}, tmp_path / "install.log")
    assert (code, output.strip()) == (3, "the end")
    assert "still at work" in capsys.readouterr().out
    assert "the end" in (tmp_path / "install.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_or_a_request_to_end_ends_the_installer(tmp_path, monkeypatch, number):
    started, handler = [], signal.getsignal(signal.SIGTERM)

    class Spy(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(piplog.subprocess, "Popen", Spy)
    monkeypatch.setattr(piplog, "_next_line", lambda lines: signal.raise_signal(number))
    with pytest.raises(KeyboardInterrupt):
        piplog.run([sys.executable, "-c", "import time; time.sleep(60)"], {}, tmp_path / "install.log")
    assert started[0].returncode not in (None, 0)  # ended by force, not waited for
    assert signal.getsignal(signal.SIGTERM) == handler


# ---- the command line ----

@pytest.mark.parametrize(("raised", "status", "words"), [
    (Trouble("do this"), 1, "course: do this"), (KeyboardInterrupt(), 130, "goes on from here"),
    (OSError(28, "No space left on device"), 1, "disk is full"),
    (OSError(errno.EDQUOT, "quota exceeded"), 1, "disk is full"),
    (PermissionError(13, "Permission denied", "work/x"), 1, "cannot write work/x")])
def test_what_the_learner_can_put_right_is_no_traceback(raised, status, words, monkeypatch, capsys):
    def command(arguments):
        raise raised

    monkeypatch.setitem(commands.COMMANDS, "status", command)
    assert commands.main(["status"]) == status
    assert words in capsys.readouterr().err


def test_a_defect_keeps_its_traceback(monkeypatch):
    def command(arguments):
        raise ZeroDivisionError

    monkeypatch.setitem(commands.COMMANDS, "status", command)
    with pytest.raises(ZeroDivisionError):
        commands.main(["status"])


def test_help_names_every_command_and_a_wrong_one_is_refused(capsys):
    assert commands.main(["--help"]) == 0
    usage = capsys.readouterr().out
    assert all(f"\n  {name} " in usage for name in commands.COMMANDS)
    assert commands.main(["begin"]) == 2


def test_test_command_passes_arguments_and_status_through(monkeypatch):
    seen = []
    monkeypatch.setattr(commands.environment, "ensure_tests", lambda place: None)
    monkeypatch.setattr(commands.subprocess, "call", lambda command, **rest: seen.append(command) or 7)
    assert commands.main(["test", "--quick"]) == 7
    assert seen[0][1:] == ["-m", "course.testing", "--quick"]
