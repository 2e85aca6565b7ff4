"""Template text: read with the core's refusals, written as OneFlow and OneGate write it, with `$NAME` resolved.

Sources: vm_var_parser.l, VirtualMachineContext.cc.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from oneflower.local import ruby
from oneflower.local.errors import CloudError
from oneflower.opennebula import text as text_format

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_DOLLAR = re.compile(
    r"\$(?:(?P<name>[0-9A-Za-z_]+)(?:\[[ \t]*(?P<attribute>\w+)(?:[ \t]*,[ \t]*(?P<key>\w+)[ \t]*=[ \t]*"
    r'(?P<value>"[^"]*"|\w+))?[ \t]*\])?|(?P<bad>.?))',
    re.DOTALL,
)


def parse_template(text: str) -> dict[str, Any]:
    """Return template text as data. Raises `CloudError` 500 if it is not a template."""
    try:
        return text_format.parse(text)
    except text_format.TextError as error:
        raise CloudError(500, str(error)) from error


def render_contents(contents: Mapping[str, Any]) -> str:
    """Return an object as OneFlow writes it for oned. Of a vector it joins the lines, so a line break gets a comma."""
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
