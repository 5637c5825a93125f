"""Symbolic sizes ("batch*sequence", "5*batch + 1"): evaluated from the text that jax prints for them.

jax documents that text (`jax.export.symbolic_shape` reads it); the objects behind it are private and change.
"""

import ast
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")
Apply = Callable[[str, "T | int", "T | int"], "T | int"]  # (add | sub | mul | floordiv | mod | max | min, a, b)

OPERATORS = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.FloorDiv: "floordiv", ast.Mod: "mod"}
FUNCTIONS = ("floordiv", "mod", "max", "min")  # how jax writes those that have no sign of their own


def evaluate(text: str, symbols: Mapping[str, T], apply: Apply) -> T | int:
    """The value of a size: built up by `apply` from ints and the symbols' values.

    Args:
        text: as jax prints it; "^" is the power.
        symbols: value of each word.
        apply: combines two values, or a value and an int; a node of a graph and an int may be told apart there.

    Raises:
        ValueError: a word or an operation that is unknown.
    """

    def value(node: ast.AST) -> T | int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.Name(id=word) if word in symbols:
                return symbols[word]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return apply("mul", -1, value(operand))
            case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int(times))) if times > 0:
                found = base = value(left)
                for _ in range(times - 1):
                    found = apply("mul", found, base)
                return found
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in OPERATORS:
                return apply(OPERATORS[type(operator)], value(left), value(right))
            case ast.Call(func=ast.Name(id=word), args=[left, right]) if word in FUNCTIONS:
                return apply(word, value(left), value(right))
        raise ValueError(f"size {text!r}: {ast.unparse(node)} is unknown")

    # in Python "^" binds weaker than "*"
    return value(ast.parse(text.replace("^", "**"), mode="eval").body)
