"""The learner's copies of the lessons, in the git-ignored `work/lessons/`.

`handed_out.json` there keeps, for each lesson, the hash of the version that was handed out. A copy whose cells hash
the same is unedited and may be replaced by a newer version; any other belongs to the learner and is never written to.
The hash covers the cells' sources alone: running a lesson changes its outputs and does not make it edited.
"""
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from course.machine import Trouble


@dataclass(frozen=True)
class Copy:
    """One lesson as it stands: `state` is "absent", "current", "outdated", "edited" or "edited, outdated"."""

    name: str
    state: str


class Desk:
    """The learner's desk: lessons come from `<repo>/lessons` and lie in `<repo>/work/lessons`."""

    def __init__(self, repo: Path):
        self.source = repo / "lessons"
        self.folder = repo / "work" / "lessons"
        self.ledger = self.folder / "handed_out.json"

    def names(self) -> list[str]:
        return sorted(path.stem for path in self.source.glob("*.ipynb"))

    def copies(self) -> list[Copy]:
        ledger = self._read_ledger()
        return [Copy(name, self._state(name, ledger)) for name in self.names()]

    def hand_out(self) -> list[str]:
        """Copy the lessons that the learner does not have yet; returns their names."""
        new = [copy.name for copy in self.copies() if copy.state == "absent"]
        self._give(new)
        return new

    def update(self) -> dict[str, str]:
        """Bring what is new without touching what is edited; returns for each lesson the state it was found in."""
        found = {copy.name: copy.state for copy in self.copies()}
        self._give([name for name, state in found.items() if state in ("absent", "outdated")])
        return found

    def reset(self, lesson: str) -> tuple[str, Path | None]:
        """Restore one lesson; returns its name and where the learner's copy, if it was edited, is kept."""
        name, backup = self.find(lesson), None
        if self._state(name, self._read_ledger()).startswith("edited"):
            backup = self._free_name(name)
            os.replace(self._path(name), backup)
        self._give([name])
        return name, backup

    def find(self, lesson: str) -> str:
        """The full name for what a learner types: "6", "06", "pretraining" or "work/lessons/06_pretraining.ipynb"."""
        typed = Path(lesson).name.removesuffix(".ipynb")
        for name in self.names():
            number, _, topic = name.partition("_")
            if typed in (name, number, topic) or (typed.isdecimal() and number == typed.zfill(2)):
                return name
        raise Trouble(f"there is no lesson {lesson!r}. The lessons are: {', '.join(self.names()) or 'none yet'}.")

    def _state(self, name: str, ledger: dict[str, str]) -> str:
        if not self._path(name).exists():
            return "absent"
        mine, theirs = cells_hash(self._path(name)), cells_hash(self.source / f"{name}.ipynb")
        if mine == theirs:
            return "current"
        handed_out = ledger.get(name)
        edited = ["edited"] if mine != handed_out else []
        return ", ".join(edited + (["outdated"] if theirs != handed_out else []))

    def _give(self, names: list[str]) -> None:
        ledger = self._read_ledger()
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            source = self.source / f"{name}.ipynb"
            _write(self._path(name), source.read_bytes())
            ledger[name] = cells_hash(source)
        _write(self.ledger, json.dumps(ledger, indent=1, sort_keys=True).encode())

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.ipynb"

    def _free_name(self, name: str) -> Path:
        number = 1
        while (path := self.folder / f"{name}.backup-{number}.ipynb").exists():
            number += 1
        return path

    def _read_ledger(self) -> dict[str, str]:
        """What was handed out; a lost or damaged ledger makes every changed copy count as edited."""
        try:
            ledger = json.loads(self.ledger.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return ledger if isinstance(ledger, dict) else {}


def cells_hash(notebook: Path) -> str:
    """Hash of a notebook's cells, (type, source) each; of the whole file where it is no readable notebook."""
    raw = notebook.read_bytes()
    try:
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(raw)["cells"]]
    except (ValueError, KeyError, TypeError):
        return hashlib.sha256(raw).hexdigest()
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(content)
    os.replace(temporary, path)
