"""Whatever a learner's function does, a check answers with a sentence; and values are compared as a teacher would."""

import math
import re
import threading
import time

import numpy as np
import pytest
import torch

from course import answer
from course.answer import Answer, Mishap, Unwritten, Wrong, describe, same, show


def message(fn, *args, want=6.0, mistakes=(), **kwargs):
    """What a learner is told about fn(*args), "" if it is right."""
    try:
        Answer(fn, "total", ["items"])(*args, **kwargs).should_be(want, *mistakes)
    except Wrong as wrong:
        return str(wrong)
    return ""


def late(items):
    while items:
        items = items + items[:0]


def spoil(items):
    items.pop()
    return 6.0


def spoil_tensor(items):
    items += 1
    return 6.0


def half_written(items):
    if not items:
        return 0


def many(items):
    yield from items


async def later(items):
    return 6.0


def deep(items):
    return deep(items)


@pytest.mark.parametrize(("fn", "words"), [
    (sum, ""),
    (lambda items: torch.tensor(6.0), ""),
    (lambda items: 6, ""),
    (lambda items: 5, r"total\(\[1, 2, 3\]\) should be 6, but yours gives 5\.$"),
    (late, r"still running after 0.2 s .* an endless loop\?\nIt was at line \d+: "),
    (lambda items: time.sleep(9), "still running"),
    (lambda items: items[3], r"stops with IndexError: list index out of range\.\nIt was at line \d+: .*items\[3\]"),
    (lambda items: items / 2, "stops with TypeError: unsupported operand"),
    (deep, "calls itself without end"),
    (lambda items: exit(), "calls exit()"),
    (spoil, "changes its argument `items`"),
    (lambda items: print(sum(items)), "prints its answer but returns None. End with `return"),
    (half_written, "returns None. Does every way"),
    (many, "returns a generator"),
    (later, "returns a coroutine"),
    (lambda: 6.0, r"called as total\(items\), but yours takes \(\)"),
    (lambda items, more: 6.0, r"yours takes \(items, more\)"),
    (lambda items: items, "returns a list of 3, but one number is asked for"),
    (lambda items: "6", "returns text, but one number is asked for"),
    (lambda items: True, "returns True, but one number is asked for"),
    (lambda items: torch.ones(3), r"returns a tensor of shape \(3,\), but one number is asked for"),
    (lambda items: math.nan, "returns nan"),
    (lambda items: object(), "returns an object, but one number"),
    (lambda items: len, "but one number is asked for"),
])
def test_every_mishap_has_its_sentence(fn, words, monkeypatch):
    monkeypatch.setattr(answer, "SECONDS", 0.2 if "still running" in words else 30)
    told = message(fn, [1, 2, 3])
    assert (re.search(words, told) and told.count("\n") <= 1) if words else told == ""


def test_mishaps_are_told_outside_of_the_main_thread_too(monkeypatch):
    monkeypatch.setattr(answer, "SECONDS", 2)
    told = []
    thread = threading.Thread(target=lambda: told.extend(message(fn, [1]) for fn in (late, half_written, spoil)))
    thread.start()
    thread.join(60)
    assert [words in text for words, text in zip(("endless loop", "returns None", "changes"), told, strict=True)]


def dots(items): ...


def passes(items):
    """To do."""
    pass


def returns_dots(items):
    return ...


def not_yet(items):
    raise NotImplementedError


@pytest.mark.parametrize("stub", [dots, passes, returns_dots, not_yet])
def test_a_stub_is_not_wrong_but_unwritten(stub):
    with pytest.raises(Unwritten):
        Answer(stub, "total", ["items"])([1])


def test_an_operation_that_pytorch_lacks_is_a_mistake_and_not_a_stub():
    with pytest.raises(Mishap, match="stops with NotImplementedError: .*Float"):
        Answer(lambda items: torch.ones(2, dtype=torch.bool) & torch.ones(2), "total", ["items"])([1])


@pytest.mark.parametrize(("got", "want", "words"), [
    (torch.ones(2, 3), torch.ones(3, 2), r"a tensor of shape (2, 3), but a tensor of shape (3, 2) is asked for"),
    ([1.0], torch.ones(1), "a list of 1, but a tensor of shape (1,) is asked for"),
    (torch.ones(2), torch.ones(2).bool(), "floats, but True and False are asked for"),
    (torch.ones(2).long(), torch.ones(2), "integers, but floats are asked for"),
    (torch.ones(2) + 0j, torch.ones(2), "complex numbers, but floats are asked for"),
    (np.ones(2), torch.ones(2), "a numpy array, but a tensor of shape (2,) is asked for"),
    (torch.ones(2), (torch.ones(2), torch.ones(2)), "a tensor of shape (2,), but 2 things are asked for"),
    ((torch.ones(2), 3), (torch.ones(2), torch.ones(2)), "the number 3, but a tensor of shape (2,) is asked for"),
    (3, [1, 2], "the number 3, but a list of 2 is asked for"),
    ([1], {"a": 1}, "a list of 1, but a dictionary is asked for"),
])
def test_wrong_types_and_shapes_are_named(got, want, words):
    assert f"returns {words}." in message(lambda: got, want=want)


def test_a_known_mistake_has_its_own_sentence():
    mistakes = [(5.0, "You forgot the last one."), ([6.0], "Take it out of the list.")]
    assert message(lambda x: 5.0 + 1e-6, 1, mistakes=mistakes) == "You forgot the last one."
    assert message(lambda x: [6], 1, mistakes=mistakes) == "Take it out of the list."
    assert message(lambda x: 1 / x, 0, errors={ZeroDivisionError: "Nothing to divide by."}).startswith(
        "Nothing to divide by.\nIt was at line ")


def test_the_function_gets_copies():
    given = [1, 2]
    with pytest.raises(Mishap, match="changes its argument"):
        Answer(spoil, "total", ["items"])(given)
    with pytest.raises(Mishap, match="changes its argument"):
        Answer(spoil_tensor, "total", ["items"])(torch.ones(2))
    assert given == [1, 2]


def test_calls_share_the_time_of_one_check(monkeypatch):
    monkeypatch.setattr(answer, "SECONDS", 3)
    asked = Answer(lambda x: time.sleep(1) or 1, "f", ["x"])
    asked(1), asked(2)
    with pytest.raises(Mishap, match="still running"):
        asked(3), asked(4)


@pytest.mark.parametrize(("a", "b", "equal"), [
    (1, 1.0000001, True), (1, 1.001, False), (1, True, False), (math.inf, math.inf, True), (0, 1e-9, True),
    ([1, (2, 3)], (1, [2, 3]), True), ([1], [1, 2], False), ("a", "a", True), ("a", b"a", False), (None, None, True),
    ({"a": 1.0}, {"a": 1}, True), ({"a": 1}, {"b": 1}, False),
    (torch.ones(2), torch.ones(2).double(), True), (torch.ones(2), torch.ones(2).long(), False),
    (torch.ones(2), torch.ones(1, 2), False), (torch.ones(2), [1, 1], False), (torch.tensor(3.0), 3, True),
    (torch.tensor([math.nan]), torch.tensor([math.nan]), True), (torch.tensor([1j]), torch.tensor([2j]), False),
])
def test_values_are_compared_as_a_teacher_would(a, b, equal):
    assert same(a, b) == same(b, a) == equal


def test_values_are_told_briefly():
    assert show(np.float32(0.5)) == show(torch.tensor(0.5)) == "0.5"
    assert show([0.123456, (1,), {"a": torch.eye(2)}]) == "[0.1235, (1,), {'a': [[1, 0], [0, 1]]}]"
    assert len(show(list(range(1000)))) == 100
    loop = [1]
    loop.append(loop)
    assert "should be [1, 2], but yours gives [1, [...]]." in message(lambda: loop, want=[1, 2])
    assert describe({1}) == "a set" and describe(None) == "None" and describe((1, 2)) == "a tuple of 2"
