"""A learner's function as a check sees it: called on copies, within a time limit, every mishap turned into a sentence.

    answer([0.5, 0.5]).should_be(1.386, (0.25, "That is the probability itself. …"), …)

calls it, and raises Wrong with the sentence that fits: for a value that a known misconception gives, the author's own;
for whatever else goes wrong (no end, an exception, nothing returned, a wrong type or shape, an argument changed in
place), one of those below.
"""

import copy
import dis
import inspect
import math
import numbers
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from course import guard

SECONDS = 5.0  # for all calls of one check together


class Wrong(Exception):
    """An answer is wrong; the message names the mistake."""


class Mishap(Wrong):
    """Wrong in a way that no exercise needs to foresee."""


class Unwritten(Wrong):
    """The learner has not begun."""


class Answer:
    """The learner's function. `names` are those of its parameters in the exercise."""

    def __init__(self, fn: Callable, name: str, names: Sequence[str]):
        self.fn, self.name, self.names = fn, name, names
        self.seconds, self.printed = SECONDS, ""

    def __call__(self, *args, errors: Mapping[type, str] | None = None) -> "Reply":
        """Call it on copies of `args`. `errors`: exceptions that a known misconception raises, with its sentence."""
        call = f"{self.name}({', '.join(map(show, args))})"
        given = copy.deepcopy(args)
        self._accepts(args)
        began = time.monotonic()
        outcome = guard.run(self.fn, given, self.seconds)
        self.seconds -= time.monotonic() - began
        self.printed = (self.printed + outcome.printed)[: guard.MAX_PRINTED]
        line = f"\nIt was at {outcome.line}" if outcome.line else ""
        if outcome.timed_out:
            raise Mishap(f"{call} was still running after {SECONDS:g} s and was stopped: an endless loop?{line}")
        if outcome.error is not None:
            raise self._explained(outcome.error, call, line, errors or {})
        for name, before, after in zip(self.names, args, given, strict=False):
            if not same(before, after):
                raise Mishap(f"{call} changes its argument `{name}`, which belongs to the caller. Work on a copy.")
        return Reply(self._returned(outcome, call), call)

    def _accepts(self, args) -> None:
        try:
            inspect.signature(self.fn).bind(*args)
        except TypeError:
            asked, own = f"{self.name}({', '.join(self.names)})", inspect.signature(self.fn)
            raise Mishap(f"It is called as {asked}, but yours takes {own}.") from None
        except ValueError:  # a function written in C has no signature to compare
            pass

    def _explained(self, error: BaseException, call: str, line: str, errors: Mapping[type, str]) -> Wrong:
        for kind, message in errors.items():
            if isinstance(error, kind):
                return Wrong(message + line)
        if isinstance(error, NotImplementedError) and not error.args:  # PyTorch's own have words: bools & floats, say
            return Unwritten()
        if isinstance(error, RecursionError):
            return Mishap(f"{call} calls itself without end.{line}")
        if isinstance(error, SystemExit):
            return Mishap(f"{call} calls exit(), which would end the notebook; return the answer instead.{line}")
        said = str(error).strip().split("\n")[0][:200]
        return Mishap(f"{call} stops with {type(error).__name__}{': ' if said else ''}{said}.{line}")

    def _returned(self, outcome: guard.Outcome, call: str) -> Any:
        value = outcome.value
        if value is Ellipsis or (value is None and _is_a_stub(self.fn)):
            raise Unwritten
        if value is None and outcome.printed:
            raise Mishap(f"{call} prints its answer but returns None. End with `return …` instead of `print(…)`.")
        if value is None:
            raise Mishap(f"{call} returns None. Does every way through the function end with `return …`?")
        if inspect.isgenerator(value):
            raise Mishap(f"{call} returns a generator, which holds no values yet. Put list(…) or sum(…) around it.")
        if inspect.iscoroutine(value):
            value.close()
            raise Mishap(f"{call} returns a coroutine, because of `async def`. A plain `def` is enough.")
        return value


@dataclass(frozen=True)
class Reply:
    """What the learner's function returned, and the call as text."""

    value: Any
    call: str

    def should_be(self, want: Any, *mistakes: tuple[Any, str]) -> None:
        """Raises Wrong unless the value is `want`, up to rounding.

        `mistakes`: what known misconceptions return here, each with the sentence that names it."""
        if same(self.value, want):
            return
        for value, message in mistakes:
            if same(self.value, value):
                raise Wrong(message)
        if trouble := kind_trouble(self.value, want):
            raise Mishap(f"{self.call} returns {trouble}.")
        raise Mishap(f"{self.call} should be {show(want)}, but yours gives {show(self.value)}.")


def _is_a_stub(fn: Callable) -> bool:
    """Whether a function's body is only `...`, `pass` or a docstring."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    nothing = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}
    return code is not None and all(instruction.opname in nothing for instruction in dis.get_instructions(code))


# ---- values ----


def plain(value: Any) -> Any:
    """A tensor or numpy scalar without dimensions as the Python number it holds."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def same(a: Any, b: Any) -> bool:
    """Equal: numbers to 1 part in 100,000, tensors of one shape and kind, lists, tuples and dicts item by item."""
    a, b = plain(a), plain(b)
    if is_number(a) and is_number(b):
        return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-7) or (a != a and b != b)
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        alike = a.shape == b.shape and _kind(a) == _kind(b)
        return alike and torch.allclose(_wide(a), _wide(b), rtol=1e-5, atol=1e-7, equal_nan=True)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and isinstance(a, (str, bytes, bool)) and a == b or a is b


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _kind(tensor: torch.Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "True and False"
    if tensor.is_complex():
        return "complex numbers"
    return "floats" if tensor.is_floating_point() else "integers"


def kind_trouble(got: Any, want: Any) -> str:
    """What is wrong with the type or shape of `got`, in words that follow "returns"; "" if they are right."""
    got = plain(got) if is_number(want) else got
    asked = f"{describe(got)}, but {describe(want)} is asked for"
    if is_number(want):
        if is_number(got) and got != got:
            return "nan, which no number here should be"
        return "" if is_number(got) else f"{describe(got)}, but one number is asked for"
    if isinstance(want, torch.Tensor):
        if not isinstance(got, torch.Tensor) or got.shape != want.shape:
            return asked
        return "" if _kind(got) == _kind(want) else f"{_kind(got)}, but {_kind(want)} are asked for"
    if isinstance(want, tuple):
        if not isinstance(got, (list, tuple)) or len(got) != len(want):
            return f"{describe(got)}, but {len(want)} things are asked for"
        return next(filter(None, map(kind_trouble, got, want)), "")
    wanted = next(kind for kind in (Mapping, list, str, bytes, bool) if isinstance(want, kind))
    return "" if isinstance(got, (list, tuple) if wanted is list else wanted) else asked


def describe(value: Any) -> str:
    """ "a tensor of shape (2, 3)", "text", "a list of 4": what a value is, without what it says."""
    if isinstance(value, (bool, type(None))):
        return str(value)
    if isinstance(value, str):
        return "text"
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    if is_number(value):
        return f"the number {show(value)}"
    names = {dict: "a dictionary", bytes: "bytes", set: "a set", np.ndarray: "a numpy array"}
    own = type(value).__name__
    article = "an" if own[0].lower() in "aeiou" else "a"
    return next((name for kind, name in names.items() if isinstance(value, kind)), f"{article} {own}")


def show(value: Any, width: int = 100) -> str:
    """A value on one line: floats to four digits, tensors as lists, long ones cut."""
    try:
        text = _show(value)
    except RecursionError:  # a list that holds itself
        text = repr(value)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _show(value: Any) -> str:
    value = plain(value)
    if isinstance(value, torch.Tensor):
        return _show(value.tolist())
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        left, right = "()" if isinstance(value, tuple) else "[]"
        comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
        return left + ", ".join(map(_show, value)) + comma + right
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_show(k)}: {_show(v)}" for k, v in value.items()) + "}"
    return getattr(value, "__name__", None) or repr(value)
