"""The expressions of elasticity policies, such as `FL_LOAD > 80 && CPU < 50`.

The grammar is OneFlow's. Comparisons are joined by && and ||, which bind equally and to the right, so that
`a && b || c` is `a && (b || c)`; `!` negates all that follows; no arithmetic. A name stands for the mean of an
attribute over a role's running VMs. A comparison with an attribute that no VM has is false.

    expression := space (comparison (("&&" | "&" | "||" | "|") expression)?) space
    comparison := operand ("==" | "=" | "!=" | "<>" | ">=" | ">" | "<=" | "<") operand
                | "!" expression | "(" expression ")"
    operand    := -?digits(.digits)? | NAME | "NAME" | 'NAME'
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from oneflower.opennebula.text import number_text

if TYPE_CHECKING:
    from collections.abc import Callable

    Lookup = Callable[[str], float | None]

_COMPARE = {
    "==": operator.eq, "=": operator.eq, "!=": operator.ne, "<>": operator.ne,
    ">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt,
}  # fmt: skip
_CLASSES = {
    "[0-9]": re.compile("[0-9]"),
    "[a-zA-Z]": re.compile("[a-zA-Z]"),
    "[0-9a-zA-Z_]": re.compile(r"\w", re.ASCII),
}


MOST_NESTED = 150


class ParseError(Exception):
    """Why a text is not an expression, in the words of OneFlow's parser."""


@dataclass(frozen=True)
class Number:
    """A constant."""

    text: str
    names: ClassVar[frozenset[str]] = frozenset()

    def value(self, _lookup: Lookup) -> tuple[float, str]:
        """Return the number, and how it is written."""
        number = float(self.text) if "." in self.text else int(self.text)
        return number, number_text(number)


@dataclass(frozen=True)
class Variable:
    """An attribute. One in quotes is looked up with the quotes, as OneFlow does, and so is never found."""

    name: str

    @property
    def names(self) -> frozenset[str]:
        """The attributes in it."""
        return frozenset({self.name})

    def value(self, lookup: Lookup) -> tuple[float | None, str]:
        """Return the mean over the VMs, or None if none has it, and how that is written."""
        found = lookup(self.name)
        return found, f"{self.name}[{'--' if found is None else number_text(found)}]"


@dataclass(frozen=True)
class Comparison:
    """Two operands, compared."""

    left: Number | Variable
    sign: str
    right: Number | Variable

    @property
    def names(self) -> frozenset[str]:
        """The attributes in it."""
        return self.left.names | self.right.names

    def value(self, lookup: Lookup) -> tuple[bool, str]:
        """Return whether it holds, and the comparison with its values."""
        (a, left), (b, right) = self.left.value(lookup), self.right.value(lookup)
        return a is not None and b is not None and _COMPARE[self.sign](a, b), f"{left} {self.sign} {right}"


@dataclass(frozen=True)
class Joined:
    """Two conditions, joined by `and` or `or`."""

    left: Any
    sign: str
    right: Any

    @property
    def names(self) -> frozenset[str]:
        """The attributes in it."""
        found: frozenset[str] = self.left.names | self.right.names
        return found

    def value(self, lookup: Lookup) -> tuple[bool, str]:
        """Return whether it holds, and the expression with its values."""
        (a, left), (b, right) = self.left.value(lookup), self.right.value(lookup)
        return (a and b) if "&" in self.sign else (a or b), f"{left} {self.sign} {right}"


@dataclass(frozen=True)
class Nested:
    """A condition in parentheses, or negated."""

    inner: Any
    negated: bool

    @property
    def names(self) -> frozenset[str]:
        """The attributes in it."""
        found: frozenset[str] = self.inner.names
        return found

    def value(self, lookup: Lookup) -> tuple[bool, str]:
        """Return whether it holds, and the expression with its values."""
        holds, text = self.inner.value(lookup)
        return (not holds, f"!{text}") if self.negated else (holds, f"({text})")


Expression = Comparison | Joined | Nested


def parse(text: str) -> Expression:
    """Return `text` as an expression. Raises `ParseError`."""
    parser = _Parser(text)
    found = parser.expression()
    if found is None or parser.position != len(text):
        raise ParseError(parser.reason(0 if found is None else parser.position))
    return found


class _Parser:
    """Tries alternatives in order, and remembers what it expected at the furthest place that it reached."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.position = 0
        self._furthest = 0
        self._depth = 0
        self._wanted: list[str] = []

    def reason(self, start: int) -> str:
        wanted = list(dict.fromkeys(self._wanted))
        before = self._text[: self._furthest]
        line, column = before.count("\n") + 1, self._furthest - (before.rfind("\n") + 1) + 1
        where = f" at line {line}, column {column} (byte {self._furthest + 1})"
        after = f" after {self._text[start : self._furthest]}" if self._furthest else ""
        return f"Expected {wanted[0] if len(wanted) == 1 else 'one of ' + ', '.join(wanted)}{where}{after}"

    def _literal(self, word: str) -> str:
        if self._text.startswith(word, self.position):
            self.position += len(word)
            return word
        self._miss("'" + word.replace("'", "\\'") + "'")
        return ""

    def _class(self, name: str) -> str:
        if match := _CLASSES[name].match(self._text, self.position):
            self.position += 1
            return match[0]
        self._miss(name)
        return ""

    def _miss(self, wanted: str) -> None:
        if self.position > self._furthest:
            self._furthest, self._wanted = self.position, []
        if self.position == self._furthest:
            self._wanted.append(wanted)

    def _run(self, name: str) -> str:
        start = self.position
        while self._class(name):
            pass
        return self._text[start : self.position]

    def _space(self) -> None:
        while self._literal(" "):
            pass

    def expression(self) -> Expression | None:
        self._depth += 1
        if self._depth > MOST_NESTED:
            raise ParseError(f"more than {MOST_NESTED} conditions within one another")
        try:
            return self._expression()
        finally:
            self._depth -= 1

    def _expression(self) -> Expression | None:
        start = self.position
        self._space()
        left = self._condition()
        if left is None:
            self.position = start
            return None
        after = self.position
        self._space()
        if sign := self._first("&&", "&", "||", "|"):
            self._space()
            right = self.expression()
            if right is not None:
                return Joined(left, sign, right)
            self.position = after
            self._space()
        return left

    def _condition(self) -> Expression | None:
        return self._comparison() or self._negation() or self._parentheses()

    def _comparison(self) -> Comparison | None:
        start = self.position
        if left := self._operand():
            self._space()
            if sign := self._first(*_COMPARE):
                self._space()
                if right := self._operand():
                    return Comparison(left, sign, right)
        self.position = start
        return None

    def _negation(self) -> Nested | None:
        start = self.position
        if self._literal("!"):
            self._space()
            if (inner := self.expression()) is not None:
                return Nested(inner, negated=True)
        self.position = start
        return None

    def _parentheses(self) -> Nested | None:
        start = self.position
        if self._literal("("):
            self._space()
            if (inner := self.expression()) is not None:
                self._space()
                if self._literal(")"):
                    return Nested(inner, negated=False)
        self.position = start
        return None

    def _first(self, *words: str) -> str:
        return next((found for word in words if (found := self._literal(word))), "")

    def _operand(self) -> Number | Variable | None:
        return self._number() or self._variable()

    def _number(self) -> Number | None:
        start = self.position
        self._literal("-")
        if self._run("[0-9]"):
            whole = self.position
            if not (self._literal(".") and self._run("[0-9]")):
                self.position = whole
            return Number(self._text[start : self.position])
        self.position = start
        return None

    def _variable(self) -> Variable | None:
        for quote in ('"', "'", ""):
            start = self.position
            if (not quote or self._literal(quote)) and self._class("[a-zA-Z]"):
                self._run("[0-9a-zA-Z_]")
                if not quote or self._literal(quote):
                    return Variable(self._text[start : self.position].upper())
            self.position = start
        return None
