"""The start command's subcommands; each takes its arguments and returns an exit status."""
import errno
import os
import subprocess
import sys

from course import doctor as checkup
from course import env as environment
from course import lab, progress, syllabus
from course.env import REPO, Environment
from course.learner import Desk
from course.machine import Trouble

USAGE = """usage: python -m course [COMMAND]

  start           make the environment if needed and open the lessons in JupyterLab (the default);
                  arguments are passed on to JupyterLab, for instance --no-browser
  test            run all tests; --quick runs the fast ones
  doctor          check this machine and say what to do
  status          show the environment, your lessons, progress and checkpoints
  update          bring new versions of the lessons (after git pull); edited ones are kept
  reset LESSON    restore a lesson; your edited copy is kept beside it
  links           write titles, minutes and links into the lessons; for your fork: links --repo owner/name"""


def main(arguments: list[str]) -> int:
    """Run one subcommand; a Trouble becomes a sentence and exit status 1."""
    sys.stdout.reconfigure(errors="backslashreplace")  # a path with letters that this console does not know
    name, *rest = arguments or ["start"]
    if name in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if name not in COMMANDS:
        print(f"course: there is no command {name!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        return COMMANDS[name](rest)
    except Trouble as trouble:
        print(f"course: {trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ncourse: stopped. The same command goes on from here.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, for instance head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = f"cannot write {error.filename}"
        else:
            raise
        print(f"course: {reason}. Put that right and run the same command again.", file=sys.stderr)
        return 1


def start(arguments: list[str]) -> int:
    env, desk = Environment(), Desk(REPO)
    environment.ensure(env)
    desk.hand_out()
    copies = desk.copies()
    if newer := [copy.name for copy in copies if copy.state == "outdated"]:
        print(f"New versions of {', '.join(newer)}: python -m course update", flush=True)
    if edited := [copy.name for copy in copies if copy.state == "edited, outdated"]:
        print(f"New versions of {', '.join(edited)}, edited by you: python -m course reset {edited[0][:2]} brings the "
              "new one, and keeps yours beside it", flush=True)
    return lab.start(env, arguments)


def test(arguments: list[str]) -> int:
    env = Environment()
    environment.ensure_tests(env)
    return subprocess.call([str(env.python), "-m", "course.testing", *arguments], env=env.variables(), cwd=REPO)


def links(arguments: list[str]) -> int:
    env = Environment()
    environment.ensure(env)
    return subprocess.call([str(env.python), "-m", "course.links", *arguments], env=env.variables(), cwd=REPO)


def doctor(arguments: list[str]) -> int:
    findings = checkup.examine(Environment())
    for finding in findings:
        print(finding)
    return 1 if any(finding.verdict == "problem" for finding in findings) else 0


def status(arguments: list[str]) -> int:
    env = Environment()
    ready = "complete" if environment.is_ready(env) else "not complete; python -m course makes it"
    print(f"environment   {ready}")
    for copy in Desk(REPO).copies():
        print(f"lesson        {copy.name:24} {STATES[copy.state]}")
    planned = len(syllabus.lessons()) - len(Desk(REPO).names())
    print(f"              {planned} more planned")
    for line in _progress():
        print(f"progress      {line}")
    files = sorted([*(REPO / "course/checkpoints").rglob("*.safetensors"), *(REPO / "work").rglob("*.safetensors")])
    for file in files:
        print(f"checkpoint    {file.relative_to(REPO)} ({file.stat().st_size / 1e6:.1f} MB)")
    if not files:
        print("checkpoint    none")
    return 0


def update(arguments: list[str]) -> int:
    for name, state in Desk(REPO).update().items():
        print(f"{name:24} {UPDATES[state].format(number=name[:2])}")
    return 0


def reset(arguments: list[str]) -> int:
    if len(arguments) != 1:
        raise Trouble("say which lesson to restore, for instance: python -m course reset 06")
    name, backup = Desk(REPO).reset(arguments[0])
    print(f"{name} is restored" + (f"; your copy is kept in {backup.relative_to(REPO)}" if backup else ""))
    return 0


def _progress() -> list[str]:
    try:
        return progress.summary() or ["none recorded"]
    except ValueError as error:
        return [f"{error}; delete it, or restore a copy"]


COMMANDS = {
    "start": start, "test": test, "doctor": doctor, "status": status, "update": update, "reset": reset, "links": links,
}
STATES = {
    "absent": "not handed out yet",
    "current": "current",
    "outdated": "a new version is here: python -m course update",
    "edited": "edited by you",
    "edited, outdated": "edited by you; a new version is here",
}
UPDATES = {
    "absent": "handed out",
    "current": "already current",
    "outdated": "replaced by the new version",
    "edited": "edited by you, kept; nothing new",
    "edited, outdated": "edited by you, kept; python -m course reset {number} brings the new one, and keeps yours",
}
