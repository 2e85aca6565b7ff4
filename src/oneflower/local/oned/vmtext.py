"""OpenNebula's template text: read as oned reads it, written as OneFlow writes it, `$NAME` resolved, context.sh.

Reading follows oned's lexer to the letter, because its oddities decide what arrives: a quoted string ends at the next
quote that no backslash precedes, an unquoted value at the next blank, comma or bracket, a character that nothing
begins with is passed over. Sources: template_parser.l, template_syntax.y, vm_var_parser.l, VirtualMachineContext.cc.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from oneflower.local import ruby
from oneflower.local.models import CloudError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Blanks, comments and characters that nothing begins with. What follows the last line break is never a comment.
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

_DOLLAR = re.compile(
    r"\$(?:(?P<name>[0-9A-Za-z_]+)(?:\[[ \t]*(?P<attribute>\w+)(?:[ \t]*,[ \t]*(?P<key>\w+)[ \t]*=[ \t]*"
    r'(?P<value>"[^"]*"|\w+))?[ \t]*\])?|(?P<bad>.?))',
    re.DOTALL,
)

_REFERENCE = re.compile(r"\$\{(.*?)\}")


class _Lexer:
    """Takes one token after another. None is looked at twice, so its time grows with the text and no faster."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._last_line = text.rfind("\n")
        self._end_of_line = -1
        self._forbidden = -1

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Return the match of a pattern, and go on behind it."""
        if match := pattern.match(self._text, self._position):
            self._position = match.end()
        return match

    def skip(self) -> bool:
        """Pass over blanks, comments and what nothing begins with. Returns whether anything is left."""
        if self._position <= self._last_line:
            self.take(_PASSED)
        if self._position > self._last_line:
            self.take(_PASSED_AT_THE_END)
        return self._position < len(self._text)

    def value(self) -> str:
        """Return a value, quoted or bare, without its quotes. Raises `CloudError` 500 where there is none."""
        quoted, bare = (pattern.match(self._text, self._position) for pattern in (_QUOTED, _BARE))
        found = bare if quoted is None or (bare is not None and bare.end() > quoted.end()) else quoted
        if found is None or self._ends_cdata(self._position, found.end()):
            raise self.fail()
        self._position = found.end()
        return (found[1] if found.re is _QUOTED else found[0]).replace('\\"', '"')

    def _ends_cdata(self, start: int, end: int) -> bool:
        """Whether the line goes on, longer than the value, to the end of a CDATA section, which oned takes for that."""
        if start > self._end_of_line:
            end_of_line = self._text.find("\n", start)
            self._end_of_line = len(self._text) if end_of_line < 0 else end_of_line
            found = self._text.rfind(_CDATA_END, start, self._end_of_line)
            self._forbidden = found + len(_CDATA_END) if found >= 0 else -1
        return self._forbidden > end

    def fail(self) -> CloudError:
        line = self._text.count("\n", 0, self._position) + 1
        return CloudError(500, f"syntax error, unexpected text at line {line}, near {self._near()!r}")

    def _near(self) -> str:
        return self._text[self._position : self._position + 20]


def parse_template(text: str) -> dict[str, Any]:
    """Return `KEY="value"` and `KEY=[A="1",B="2"]` lines as data, names in upper case; what is repeated is a list.

    Raises `CloudError` 500 where the text is not of that form.
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


def render_contents(contents: Mapping[str, Any]) -> str:
    """Return an object as OneFlow renders it for oned. Of a vector it joins the lines, so a line break gets a comma."""
    text = ""
    for key, value in contents.items():
        if isinstance(value, dict):
            inner = ",\n".join(render_contents(value).rstrip("\n").split("\n"))
            text += f"{key} = [\n{inner}\n]\n"
        elif isinstance(value, list):
            text += "".join(render_contents({key: element}) for element in value)
        else:
            escaped = ruby.text(value).replace('"', '\\"')
            text += f'{key} = "{escaped}"\n'
    return text


def fill_references(text: str, find: Callable[[str], str]) -> str:
    """Replace each `${role.path}` by what `find` returns for it; what it does not know is empty."""
    for reference in _REFERENCE.findall(text):
        text = text.replace("${" + reference + "}", find(reference))
    return text


def resolve_context(context: Mapping[str, Any], find: Callable[[str, str, str, str], str]) -> dict[str, str]:
    """Return CONTEXT with `$NAME` and `$NAME[ATTRIBUTE, KEY=value]` replaced, once, by what `find` returns.

    Raises `CloudError` 500 where a `$` is not followed by a name, as in `${X}` or `$(x)`.
    """

    def replace(match: re.Match[str]) -> str:
        if match["name"] is None:
            raise CloudError(500, f"Error parsing CONTEXT: syntax error at '${match['bad']}'")
        parts = (match["name"].upper(), *((match[part] or "") for part in ("attribute", "key", "value")))
        return find(*parts)

    return {key.upper(): _DOLLAR.sub(replace, ruby.text(value)) for key, value in context.items()}


def context_sh(context: Mapping[str, str]) -> str:
    """Return context.sh: keys in alphabetical order, values single-quoted. Source: VirtualMachineContext.cc."""
    lines = (
        f"{key}='{value.replace(chr(39), chr(39) + chr(92) + chr(39) * 2)}'" for key, value in sorted(context.items())
    )
    return "# Context variables generated by OpenNebula\n" + "\n".join(lines) + "\n"
