"""Two tools to start with: `AGENT_TOOLS=app.agents.basic_tools:tools`."""

import ast
import math
import operator
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from app.agents.tools import ToolError

MAX_EXPRESSION_CHARS = 1_000
MAX_BITS = 4_096  # of any number on the way; keeps one call from computing for minutes

OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


def clock() -> str:
    """Return the current date and time in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def calculator(expression: str) -> str:
    """Return the value of an arithmetic expression of numbers, + - * / // % ** and parentheses."""
    if len(expression) > MAX_EXPRESSION_CHARS:
        raise ToolError(f"The expression is longer than {MAX_EXPRESSION_CHARS} characters.")
    try:
        return str(_value(ast.parse(expression, mode="eval").body))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        raise ToolError("This is no arithmetic expression.") from exc
    except (ArithmeticError, TypeError) as exc:
        raise ToolError("This has no value, or one that is too large.") from exc


def _value(node: ast.AST) -> int | float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _small(number)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return _small(OPERATORS[type(op)](_value(operand)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            base, other = _value(left), _value(right)
            if isinstance(op, ast.Pow) and abs(other) * math.log2(abs(base) + 1) > MAX_BITS:
                raise OverflowError
            return _small(OPERATORS[type(op)](base, other))
    raise SyntaxError


def _small(number: Any) -> int | float:  # noqa: ANN401 a power of a negative number is complex
    match number:
        case int() if number.bit_length() <= MAX_BITS:
            return number
        case float() if math.isfinite(number):
            return number
    raise OverflowError


tools: list[Callable[..., Any]] = [clock, calculator]
