"""syllabus.toml as records: the lessons in their order, and the repository's address."""
import tomllib
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("syllabus.toml")


@dataclass(frozen=True)
class Lesson:
    name: str  # the notebook's name without its suffix, "06_pretraining"
    title: str
    minutes: int
    needs: tuple[str, ...]  # names of the lessons it builds on
    objectives: tuple[str, ...]


def lessons(file: Path = FILE) -> list[Lesson]:
    """All lessons of the course, planned ones included, in teaching order."""
    rows = tomllib.loads(file.read_text(encoding="utf-8"))["lesson"]
    return [Lesson(**row | {"needs": tuple(row["needs"]), "objectives": tuple(row["objectives"])}) for row in rows]


def repository(file: Path = FILE) -> str:
    """The repository's "owner/name"."""
    return tomllib.loads(file.read_text(encoding="utf-8"))["repository"]
