"""What a notebook needs besides llmkit: the same beginning on every machine, claims that are checked, and exercises."""

import os
from pathlib import Path

from IPython import get_ipython
from IPython.core.pylabtools import select_figure_formats

from course import progress
from course.exercise import check, hint, solution
from course.quiz import quiz
from llmkit import device

__all__ = ["begin", "check", "claim", "hint", "progress", "quiz", "solution", "work"]


class ClaimError(AssertionError):
    """A result fell outside the band that the lesson claims."""


_mine = False


def begin(name: str, seed: int = 0, mine: bool = False) -> None:
    """Seed everything, choose the device, and say what was chosen.

    mine=True: checkpoints are looked for among the learner's own first, and claims report, but never fail.
    """
    global _mine
    own = str(work("checkpoints"))
    if mine:
        os.environ["LLMKIT_CHECKPOINTS"] = own
    elif os.environ.get("LLMKIT_CHECKPOINTS") == own:  # of an earlier begin
        del os.environ["LLMKIT_CHECKPOINTS"]
    _mine = mine
    if shell := get_ipython():
        select_figure_formats(shell, {"png"})  # a cell that ends in a figure shows it
    device.seed_everything(seed)
    print(f"{name}: seed {seed}, {device.best_device()}")


def work(name: str) -> Path:
    """Where the learner's own things of this name are: in work/, beside the file of progress, which git ignores."""
    return progress.path().parent / name


def claim(what: str, value: float, between: tuple[float, float]) -> None:
    """State a result with its band. Outside it: a ClaimError, or a remark if the checkpoints are the learner's own."""
    low, high = between
    value = float(value)
    if low <= value <= high:
        print(f"✓ {what}: {value:.3g} (claimed: {low:g} to {high:g})")
    elif _mine:
        print(f"– {what}: {value:.3g}; the course's own checkpoints give {low:g} to {high:g}")
    else:
        raise ClaimError(f"{what}: {value:.3g} is outside the claimed band of {low:g} to {high:g}")
