"""JupyterLab for the course: on localhost, with its token, at the first lesson, without news or update checks."""
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from course.env import Environment
from course.machine import Trouble

FIRST_PORT = 8888
STARTUP_S = 20  # a server that ends sooner than this never came up
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True,
    },
}


def start(env: Environment, extra: list[str]) -> int:
    """Run JupyterLab until the learner stops it; `extra` goes to JupyterLab as it is. Returns its exit status."""
    write_settings(env.folder)
    port = free_port()
    if port != FIRST_PORT:
        print(f"Port {FIRST_PORT} is taken; using {port}.", flush=True)
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    variables = env.variables() | {"JUPYTER_PREFER_ENV_PATH": "1"}
    began = time.monotonic()
    status = _run(command(env, port, is_root, extra), variables, env.repo)
    if status > 0 and time.monotonic() - began < STARTUP_S:
        raise Trouble("JupyterLab did not start; the reason stands above. If a module is missing or damaged, delete "
                      "the folder .venv and run python -m course again.")
    return max(status, 0)


def command(env: Environment, port: int, is_root: bool, extra: list[str]) -> list[str]:
    """The command line that opens the learner's first lesson."""
    lessons = sorted((env.repo / "work" / "lessons").glob("[0-9][0-9]_*.ipynb"))
    url = "/lab/tree/" + lessons[0].relative_to(env.repo).as_posix() if lessons else "/lab"
    root = ["--allow-root"] if is_root else []
    return [str(env.python), "-m", "jupyterlab", f"--ServerApp.root_dir={env.repo}", "--ServerApp.ip=localhost",
            f"--ServerApp.port={port}", f"--LabApp.default_url={url}", "--LabApp.extension_manager=readonly",
            *root, *extra]


def free_port(first: int = FIRST_PORT, tries: int = 100) -> int:
    """The first port from `first` on that nobody listens on."""
    for port in range(first, first + tries):
        with socket.socket() as probe:
            if os.name != "nt":  # a port that a stopped server has just left counts as free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Trouble(f"the ports {first} to {first + tries - 1} are all taken. Stop a Jupyter server that you no longer "
                  "use, or name a port: python -m course start --ServerApp.port=9999")


def write_settings(prefix: Path) -> None:
    """Set JupyterLab's defaults in the environment at `prefix`; what a learner chose for herself still wins."""
    file = prefix / "share/jupyter/lab/settings/overrides.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(SETTINGS, indent=1), encoding="utf-8")


def _run(command: list[str], variables: dict[str, str], folder: Path) -> int:
    """Ctrl-C reaches JupyterLab directly, which asks before it stops; a request to end is passed on to it."""
    server = subprocess.Popen(command, env=variables, cwd=folder)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    while True:
        try:
            return server.wait()
        except KeyboardInterrupt:
            continue
