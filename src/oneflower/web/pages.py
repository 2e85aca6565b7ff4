"""Makes HTML: pages, and the parts of pages that a stream replaces. All that is put in is escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from oneflower.printable import in_a_line, printable
from oneflower.web.topology import topology

if TYPE_CHECKING:
    from oneflower.web.guard import Keys


class Pages:
    """The templates. `where` names the cloud."""

    def __init__(self, where: str, keys: Keys) -> None:
        self._templates = Environment(
            loader=PackageLoader("oneflower.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(printable=printable, line=in_a_line)
        self._templates.globals.update(where=where, csrf=keys.csrf, picture_of=topology)

    def show(self, template: str, status: int = 200, /, **values: Any) -> HTMLResponse:
        """Return a page."""
        return HTMLResponse(self.text(template, **values), status)

    def text(self, template: str, /, **values: Any) -> str:
        """Return the text of a template."""
        return self._templates.get_template(template).render(values)
