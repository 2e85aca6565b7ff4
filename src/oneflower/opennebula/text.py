"""OpenNebula's template text, read as oned reads it and written so that oned reads the same again; and context.sh.

Reading follows oned's lexer to the letter, because its oddities decide what arrives: a quoted string ends at the next
quote that no backslash precedes, an unquoted value at the next blank, comma or bracket, and a character that cannot
start anything is skipped. Sources: template_parser.l, template_syntax.y, VirtualMachineContext.cc.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Blanks, comments and characters that cannot start anything. What follows the last line break is never a comment.
_PASSED = re.compile(r"(?:[ \t\n]++|#[^\n]*+\n|[^0-9A-Za-z_= \t\n,\]#]++)*+")
_PASSED_AT_THE_END = re.compile(r"[^0-9A-Za-z_=,\]]*+")
_VARIABLE = re.compile(r"[0-9A-Za-z_]++")
_EQUAL = re.compile(r"[ \t]*+=[ \t]*+(\n?)")
_COMMA = re.compile(r"[ \t\n]*+,[ \t\n]*+")
_CLOSE = re.compile(r"[ \t\n]*+\][ \t\n]*+")
_OPEN = re.compile(r"[ \t]*+\[[ \t\n]*+")
_QUOTED = re.compile(r'"((?:\\"|[^"])*)"')
_BARE = re.compile(r"[^=# \t\n,\[\]]++")
_CDATA_END = "]]>"


class TextError(ValueError):
    """The text is not a template."""


class _Lexer:
    """Takes one token after another. It reads no character twice: its time is proportional to the text's length."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._last_line = text.rfind("\n")
        self._end_of_line = -1
        self._forbidden = -1

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Return the match of a pattern, and continue after it."""
        if match := pattern.match(self._text, self._position):
            self._position = match.end()
        return match

    def skip(self) -> bool:
        """Skip blanks, comments and characters that cannot start anything. Returns whether anything is left."""
        if self._position <= self._last_line:
            self.take(_PASSED)
        if self._position > self._last_line:
            self.take(_PASSED_AT_THE_END)
        return self._position < len(self._text)

    def value(self) -> str:
        """Return a value, quoted or bare, without its quotes. Raises `TextError` if there is none."""
        quoted, bare = (pattern.match(self._text, self._position) for pattern in (_QUOTED, _BARE))
        found = bare if quoted is None or (bare is not None and bare.end() > quoted.end()) else quoted
        if found is None or self._ends_cdata(self._position, found.end()):
            raise self.fail()
        self._position = found.end()
        return (found[1] if found.re is _QUOTED else found[0]).replace('\\"', '"')

    def _ends_cdata(self, start: int, end: int) -> bool:
        """Whether `]]>` follows the value on its line: oned reads everything up to it as a CDATA section."""
        if start > self._end_of_line:
            end_of_line = self._text.find("\n", start)
            self._end_of_line = len(self._text) if end_of_line < 0 else end_of_line
            found = self._text.rfind(_CDATA_END, start, self._end_of_line)
            self._forbidden = found + len(_CDATA_END) if found >= 0 else -1
        return self._forbidden > end

    def fail(self) -> TextError:
        line = self._text.count("\n", 0, self._position) + 1
        return TextError(f"syntax error, unexpected text at line {line}, near {self._near()!r}")

    def _near(self) -> str:
        return self._text[self._position : self._position + 20]


def parse(text: str) -> dict[str, Any]:
    """Return `KEY="value"` and `KEY=[A="1",B="2"]` lines as data, names in upper case; what is repeated becomes a list.

    Raises `TextError` if the text does not have that form.
    """
    lexer = _Lexer(text)
    template: dict[str, Any] = {}
    while lexer.skip():
        name = lexer.take(_VARIABLE)
        if name is None:
            raise lexer.fail()
        key, value = name[0].upper(), _attribute(lexer)
        before = template.get(key)
        if before is None:
            template[key] = value
        elif isinstance(before, list):
            before.append(value)
        else:
            template[key] = [before, value]
    return template


def _attribute(lexer: _Lexer) -> Any:
    equal = lexer.take(_EQUAL)
    if equal is None:
        raise lexer.fail()
    if equal[1]:
        return ""
    if not lexer.take(_OPEN):
        return lexer.value().rstrip("\n")
    vector: dict[str, str] = {}
    if lexer.take(_CLOSE):
        return vector
    while True:
        lexer.skip()
        name, equal = lexer.take(_VARIABLE), lexer.take(_EQUAL)
        if name is None or equal is None or equal[1]:
            raise lexer.fail()
        vector.setdefault(name[0].upper(), lexer.value())
        if lexer.take(_CLOSE):
            return vector
        if not lexer.take(_COMMA):
            raise lexer.fail()


def render(template: Mapping[str, Any]) -> str:
    """Return `template` as OpenNebula text: `KEY="value"` and `KEY=[A="1", B="2"]`; a list is repeated."""
    lines = (
        f"{key}={_value(item)}\n"
        for key, value in template.items()
        for item in (value if isinstance(value, list) else [value])
    )
    return "".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "[" + ", ".join(f"{key}={_value(item)}" for key, item in value.items()) + "]"
    # OpenNebula has one escape, for a quote. A backslash is an ordinary character.
    escaped = str(value).replace('"', '\\"')
    return f'"{escaped}"'


def context_sh(context: Mapping[str, str]) -> str:
    """Return context.sh: keys in alphabetical order, values single-quoted. Source: VirtualMachineContext.cc."""
    lines = (
        f"{key}='{value.replace(chr(39), chr(39) + chr(92) + chr(39) * 2)}'" for key, value in sorted(context.items())
    )
    return "# Context variables generated by OpenNebula\n" + "\n".join(lines) + "\n"


def number_text(number: float) -> str:
    """Return a number as OpenNebula's Ruby writes it: a float always has a fraction, even before an exponent."""
    if not isinstance(number, float):
        return str(number)
    digits, exponent, power = repr(number).partition("e")
    return f"{digits}.0e{power}" if exponent and "." not in digits else digits + exponent + power
