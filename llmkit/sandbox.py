"""A tiny interpreter for generated functions: it walks the syntax tree of the few things the town's functions may do.

Nothing is ever compiled or executed by Python: what is not in the tables below is refused. There are no loops and
no calls but three, so every function ends; numbers may not outgrow 10**12. No input can hurt the machine or hold it up.
"""

from __future__ import annotations

import ast
import operator
import warnings

BINARY = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
          ast.Mod: operator.mod, ast.Pow: operator.pow}  # fmt: skip
CALLS = {"min": min, "max": max, "abs": abs}
LARGEST, LONGEST = 10**12, 2_000


class SandboxError(ValueError):
    """The function is not Python, uses something outside the sandbox, or fails when it runs."""


def run_function(source: str, x: int) -> int:
    """The value of the one function in `source` at x. SandboxError says why there is none."""
    if len(source) > LONGEST:
        raise SandboxError(f"the source is longer than {LONGEST} characters")
    try:
        return _run(_parse(source), x)
    except RecursionError:
        raise SandboxError("an expression is nested too deeply") from None


def _parse(source: str) -> ast.FunctionDef:
    try:
        with warnings.catch_warnings():  # "1if x" or "\d" is the model's slip, and no news for who runs it
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, MemoryError) as error:
        raise SandboxError(f"not Python: {error}") from None
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef) or len(tree.body[0].args.args) != 1:
        raise SandboxError("expected one function of one argument and nothing else")
    return tree.body[0]


def _run(function: ast.FunctionDef, x: int) -> int:
    names = {function.args.args[0].arg: x}
    for statement in function.body:
        match statement:
            case ast.Expr(value=ast.Constant(value=str())):
                continue  # the docstring
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                names[name] = _value(value, names)
            case ast.Return(value=value) if value is not None:
                return _value(value, names)
            case _:
                raise SandboxError(f"line {statement.lineno}: {type(statement).__name__} is not allowed here")
    raise SandboxError("the function returns nothing")


def _value(node: ast.expr, names: dict[str, int]) -> int:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return _bounded(number)
        case ast.Name(id=name):
            if name not in names:
                raise SandboxError(f"the name {name!r} is not defined")
            return names[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, names)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            a, b = _value(left, names), _value(right, names)
            if isinstance(op, ast.Pow) and not 0 <= b <= 8:
                raise SandboxError(f"a power of {b} is not allowed")
            try:
                return _bounded(BINARY[type(op)](a, b))
            except ZeroDivisionError:
                raise SandboxError("division by zero") from None
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in CALLS and args:
            values = [_value(arg, names) for arg in args]
            if len(values) != (1 if name == "abs" else 2):
                raise SandboxError(f"{name} takes {1 if name == 'abs' else 2} arguments here")
            return CALLS[name](*values)
        case _:
            raise SandboxError(f"{type(node).__name__} is not allowed here")


def _bounded(number: int) -> int:
    if abs(number) > LARGEST:
        raise SandboxError(f"a number beyond ±{LARGEST}")
    return number
