"""The interpreter computes what Python computes, and refuses everything else."""

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
        ("def f(x):\n    return min(x)", "takes 2 arguments"),
        ("\0", "not Python"),
    ],
)
def test_refusals(source, why):
    with pytest.raises(SandboxError, match=why):
        run_function(source, 1)
