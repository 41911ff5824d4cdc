"""The text form: a tokenizer, a precedence (Pratt) parser, and the way back.

Precedence is Python's: ``+ -``, then ``* /``, then unary ``-``, then ``**`` (right associative,
its exponent a number). A minus straight before a number that is not raised to a power belongs to
the number; everything else is a call.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from prunerzero.errors import InputError
from prunerzero.metric.expression import MAX_DEPTH, Call, Constant, Leaf, Node
from prunerzero.metric.operators import OPERATORS
from prunerzero.metric.terminals import TERMINALS
from prunerzero.suggestions import did_you_mean

MAX_LENGTH = 10_000  # characters

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z_0-9]*)|(?P<symbol>\*\*|[-+*/(),]))"
)
_INFIX = {"+": "add", "-": "sub", "*": "mul", "/": "ratio"}
_SYMBOLS = {name: symbol for symbol, name in _INFIX.items()}
_SUM, _PRODUCT, _UNARY, _POWER, _ATOM = 1, 2, 3, 4, 5
_PRECEDENCE = {"+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT, "**": _POWER}


def parse(text: str) -> Node:
    """Parses the text form of an expression.

    Args:
        text: Such as ``"abs(W * W) * mms(G)"``.

    Raises:
        InputError: One line that names the column (from 1) and what is wrong there.
    """
    if not isinstance(text, str):
        raise InputError(f"metric: expected text, got {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise InputError(f"metric: {len(text)} characters long, the limit is {MAX_LENGTH}")
    return _Parser(text).parse()


class _Token(NamedTuple):
    kind: str  # "number", "name", "symbol" or "end"
    text: str
    column: int

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else repr(self.text)


def _error(column: int, message: object) -> InputError:
    return InputError(f"metric, column {column}: {message}")


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            position += len(text[position:]) - len(text[position:].lstrip())
            raise _error(position + 1, f"unexpected character {text[position]!r}")
        kind = match.lastgroup or ""
        tokens.append(_Token(kind, match.group(kind), match.start(kind) + 1))
        position = match.end()
    tokens.append(_Token("end", "", end + 1))
    return tokens


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.position = 0
        self.level = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.position]

    def advance(self) -> _Token:
        token = self.token
        self.position += 1
        return token

    def parse(self) -> Node:
        if self.token.kind == "end":
            raise _error(1, "the text is empty; write a formula such as 'W * sqrt(X)'")
        node = self.expression(_SUM)
        if self.token.text == ")":
            raise _error(self.token.column, "')' closes nothing")
        if self.token.kind != "end":
            raise _error(self.token.column, f"expected an operator, found {self.token}")
        return node

    def expression(self, precedence: int) -> Node:
        """Parses while the operators bind at least as tightly as ``precedence``."""
        self.level += 1
        if self.level > 2 * MAX_DEPTH:  # parentheses add no depth to the tree, but do here
            raise _error(self.token.column, f"more than {2 * MAX_DEPTH} levels of parentheses")
        node = self.operand()
        while self.token.kind == "symbol" and _PRECEDENCE.get(self.token.text, 0) >= precedence:
            token = self.advance()
            if token.text == "**":
                node = self.call("power", (node, self.exponent(token)), token.column)
            else:
                right = self.expression(_PRECEDENCE[token.text] + 1)
                node = self.call(_INFIX[token.text], (node, right), token.column)
        self.level -= 1
        return node

    def exponent(self, token: _Token) -> Node:
        column = self.token.column
        node = self.expression(_UNARY)
        if not isinstance(node, Constant):
            raise _error(column, f"the exponent of {token.text!r} must be a number")
        return node

    def operand(self) -> Node:
        token = self.advance()
        if token.text == "-":
            number = self.token.kind == "number" and self.tokens[self.position + 1].text != "**"
            child = self.expression(_UNARY)
            if number and isinstance(child, Constant):
                return Constant(-child.value)
            return self.call("neg", (child,), token.column)
        if token.text == "(":
            node = self.expression(_SUM)
            self.close(token)
            return node
        if token.kind == "number":
            try:
                return Constant(float(token.text))
            except InputError as error:
                raise _error(token.column, error) from None
        if token.kind == "name":
            return self.name(token)
        raise _error(token.column, f"expected a terminal, a number, a call or '(', found {token}")

    def name(self, token: _Token) -> Node:
        name, column = token.text, token.column
        if self.token.text != "(":
            if name in TERMINALS:
                return Leaf(name)
            if name in OPERATORS:
                raise _error(column, f"{name!r} is an operator; write {name}(...)")
            hint = (
                did_you_mean(name, [*TERMINALS, *OPERATORS])
                or f"; there are {', '.join(TERMINALS)}"
            )
            raise _error(column, f"unknown terminal {name!r}{hint}")
        if name in TERMINALS:
            raise _error(column, f"{name!r} is a terminal, not an operator")
        if name not in OPERATORS:
            raise _error(column, f"unknown operator {name!r}{did_you_mean(name, OPERATORS)}")
        opening = self.advance()
        args: list[Node] = []
        while self.token.text != ")":
            args.append(self.expression(_SUM))
            if self.token.text != ",":
                break
            self.advance()
        self.close(opening)
        return self.call(name, tuple(args), column)

    def close(self, opening: _Token) -> None:
        if self.token.kind == "end":
            raise _error(opening.column, "'(' is never closed")
        if self.token.text != ")":
            raise _error(self.token.column, f"expected ')' or an operator, found {self.token}")
        self.advance()

    def call(self, operator: str, args: tuple[Node, ...], column: int) -> Node:
        try:
            return Call(operator, args)
        except InputError as error:
            raise _error(column, error) from None


def to_text(node: Node) -> str:
    """The text form, which parses back to an equal tree."""
    return _format(node)[0]


def _format(node: Node) -> tuple[str, int]:
    """The text of a node and how tightly its outermost operator binds."""
    if isinstance(node, Leaf):
        return node.name, _ATOM
    if isinstance(node, Constant):
        text = repr(node.value).removesuffix(".0")
        return text, _UNARY if node.value < 0 else _ATOM
    assert isinstance(node, Call)
    if node.operator == "neg":
        text, precedence = _format(node.args[0])
        # "-2" is a number, "-(2)" the negation of one; "--x" would be legal but is hard to read.
        plain = precedence >= _POWER and not isinstance(node.args[0], Constant)
        return (f"-{text}" if plain else f"-({text})"), _UNARY
    if node.operator == "power":
        return f"{_wrap(node.args[0], _ATOM)} ** {_format(node.args[1])[0]}", _POWER
    if node.operator in _SYMBOLS:
        symbol = _SYMBOLS[node.operator]
        precedence = _PRECEDENCE[symbol]
        left, right = _wrap(node.args[0], precedence), _wrap(node.args[1], precedence + 1)
        return f"{left} {symbol} {right}", precedence
    return f"{node.operator}({', '.join(_format(arg)[0] for arg in node.args)})", _ATOM


def _wrap(node: Node, needed: int) -> str:
    text, precedence = _format(node)
    return text if precedence >= needed else f"({text})"
