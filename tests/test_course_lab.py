"""JupyterLab for the course: its port, its command line, what it is told not to do, and how it ends."""
import json
import signal
import socket
from types import SimpleNamespace

import pytest

from course import lab
from course.env import Environment
from course.machine import Trouble


def test_a_taken_port_gives_the_next():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = server.getsockname()[1]
        assert taken < lab.free_port(taken, tries=50) < taken + 50
        with pytest.raises(Trouble, match="all taken"):
            lab.free_port(taken, tries=1)


def test_the_server_opens_the_first_lesson_and_only_root_is_allowed_as_root(tmp_path):
    (tmp_path / "work/lessons").mkdir(parents=True)
    for name in ("06_pretraining", "00_start", "notes"):
        (tmp_path / f"work/lessons/{name}.ipynb").touch()
    command = lab.command(Environment(tmp_path), 8890, is_root=False, extra=["--no-browser"])
    assert "--LabApp.default_url=/lab/tree/work/lessons/00_start.ipynb" in command
    assert "--ServerApp.port=8890" in command and "--ServerApp.ip=localhost" in command
    assert "--allow-root" not in command and command[-1] == "--no-browser"
    assert not any("token" in word or "password" in word for word in command)
    assert "--allow-root" in lab.command(Environment(tmp_path), 8890, is_root=True, extra=[])


@pytest.mark.parametrize(("status", "outcome"), [(0, 0), (-15, 0)])
def test_a_stopped_server_is_a_success(tmp_path, monkeypatch, status, outcome):
    monkeypatch.setattr(lab, "_run", lambda *args: status)
    assert lab.start(Environment(tmp_path), []) == outcome
    notification = json.loads((tmp_path / ".venv/share/jupyter/lab/settings/overrides.json").read_text())[
        "@jupyterlab/apputils-extension:notification"]
    assert notification == {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}


def test_a_server_that_never_came_up_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "_run", lambda *args: 1)
    with pytest.raises(Trouble, match="delete the folder .venv"):
        lab.start(Environment(tmp_path), [])


def test_a_server_that_fails_after_a_day_is_no_trouble_of_starting(tmp_path, monkeypatch):
    clock = iter([0, lab.STARTUP_S + 1])
    monkeypatch.setattr(lab, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(lab, "_run", lambda *args: 1)
    assert lab.start(Environment(tmp_path), []) == 1


@pytest.mark.parametrize(("port", "uid", "said"), [(8888, 1000, ""), (8889, 0, "Port 8888 is taken; using 8889.\n")])
def test_what_the_server_is_started_with(tmp_path, monkeypatch, capsys, port, uid, said):
    seen = []
    monkeypatch.setattr(lab, "_run", lambda command, variables, folder: seen.append((command, variables)) or 0)
    monkeypatch.setattr(lab, "free_port", lambda: port)
    monkeypatch.setattr(lab.os, "geteuid", lambda: uid, raising=False)
    lab.start(Environment(tmp_path), ["--no-browser"])
    ((command, variables),) = seen
    assert capsys.readouterr().out == said and f"--ServerApp.port={port}" in command
    assert ("--allow-root" in command) == (uid == 0) and variables["JUPYTER_PREFER_ENV_PATH"] == "1"


def test_ctrl_c_is_jupyterlabs_and_a_request_to_end_is_passed_on(tmp_path, monkeypatch):
    class Server:
        status, signals = 0, [signal.SIGINT, signal.SIGTERM]

        def __init__(self, command, **options):
            pass

        def terminate(self):
            self.status = -15

        def wait(self):
            signal.raise_signal(self.signals.pop(0))
            return self.status

    monkeypatch.setattr(lab.subprocess, "Popen", Server)
    old = signal.getsignal(signal.SIGTERM)
    try:
        assert lab._run([], {}, tmp_path) == -15 and Server.signals == []
    finally:
        signal.signal(signal.SIGTERM, old)
