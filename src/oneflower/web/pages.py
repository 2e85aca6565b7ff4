"""Makes HTML: pages, and the parts of pages that a stream replaces. All that is put in is escaped."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from oneflower.printable import in_a_line, printable
from oneflower.web.form import LABELS
from oneflower.web.topology import topology

if TYPE_CHECKING:
    from oneflower.web.guard import Keys


@functools.cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("oneflower.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(printable=printable, line=in_a_line)
    made.globals.update(picture_of=topology, labels=LABELS)
    return made


class Pages:
    """The pages of one start. `where` names the cloud."""

    def __init__(self, where: str, keys: Keys) -> None:
        self._always = {"where": where, "csrf": keys.csrf}

    def show(self, template: str, status: int = 200, /, **values: Any) -> HTMLResponse:
        """Return a page."""
        return HTMLResponse(self.text(template, **values), status)

    def text(self, template: str, /, **values: Any) -> str:
        """Return the text of a template."""
        return _templates().get_template(template).render(values | self._always)
