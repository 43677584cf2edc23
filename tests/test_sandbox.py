"""The interpreter computes what Python computes, and refuses everything else."""

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.sandbox import SandboxError, run_function


@pytest.mark.parametrize(
    ("body", "x", "value"),
    [
        ("    return x + 3", 4, 7),
        ("    return (x - 2) * 8", 0, -16),
        ("    y = x * 2\n    return min(y, 5)", 4, 5),
        ('    """Doc."""\n    return -x ** 2', 3, -9),
        ("    return max(x, abs(-4)) // 3 % 2", 9, 1),
        ("    return x ** 0 + x ** 8", 2, 257),
    ],
)
def test_values(body, x, value):
    assert run_function(f"def f(x):\n{body}", x) == value


SAME = {
    "x + {k}": lambda x, k: x + k,
    "x * {k} - x": lambda x, k: x * k - x,
    "(x - {k}) * (x + {k})": lambda x, k: (x - k) * (x + k),
    "x ** 2 % {k}": lambda x, k: x**2 % k,
    "-x // {k} * 2": lambda x, k: -x // k * 2,
}


@given(st.integers(-50, 50), st.integers(2, 9), st.sampled_from(sorted(SAME)))
def test_same_as_python(x, k, expression):
    assert run_function(f"def f(x):\n    return {expression.format(k=k)}", x) == SAME[expression](x, k)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("def f(x):\n    return __import__('os')", "Call is not allowed"),
        ("def f(x):\n    while True: pass", "While is not allowed"),
        ("def f(x):\n    return x.real", "Attribute is not allowed"),
        ("def f(x):\n    return y", "'y' is not defined"),
        ("def f(x):\n    return 9 ** 9 ** 9", "power"),
        ("def f(x):\n    return 999999 * 999999 * 999999", "a number beyond"),
        ("def f(x):\n    return x // 0", "division by zero"),
        ("def f(x):\n    y = 1", "returns nothing"),
        ("def f(x):\n    return 'a'", "Constant is not allowed"),
        ("import os\ndef f(x):\n    return 1", "one function of one argument"),
        ("def f(x, y):\n    return 1", "one function of one argument"),
        ("def f(x:", "not Python"),
        ("def f(x):\n    return " + "(" * 500 + "x" + ")" * 500, "not Python"),
        ("def f(x):\n    return x" + " + x" * 2000, "longer than"),
        ("def f(x):\n    return " + "-" * 1900 + "x", "nested too deeply|not Python"),  # by Python's version
        ("def f(x):\n    return min(x)", "takes 2 arguments"),
        ("\0", "not Python"),
    ],
)
def test_refusals(source, why):
    with pytest.raises(SandboxError, match=why):
        run_function(source, 1)


def test_what_the_parser_grumbles_about_is_heard_by_nobody():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert run_function('def f(x):\n    """\\d and \\777"""\n    return x + 1', 1) == 2
        for expression in ("3if x else 2", "0x1for x", "1and x"):
            with pytest.raises(SandboxError):
                run_function(f"def f(x):\n    return {expression}", 1)
    assert heard == []


PIECES = [*"xy7-+%(),=", "**", "//", "min(", "abs(", "\n    ", "return ", "'\\d'", "if"]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=30))
def test_whatever_a_model_writes_is_a_number_or_a_refusal(pieces):
    try:
        assert isinstance(run_function("def f(x):\n    return " + "".join(pieces), 3), int)
    except SandboxError as error:
        assert str(error)
