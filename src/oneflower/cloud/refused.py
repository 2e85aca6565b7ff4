"""Errors of a cloud's servers: what an error answer means, and what to do if there is no answer."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING

from oneflower.cloud import wording
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Iterator

_FORBIDDEN, _NOT_FOUND = 401, 404
_AWAY = (502, 503, 504)
_HINTS = {
    401: "Check user and password (ONE_AUTH), and that this user may use the object.",
    403: "Check user and password (ONE_AUTH).",
    502: "OpenNebula is starting, or a proxy before it cannot reach it: try again in a moment.",
    503: "OpenNebula is starting, or a proxy before it cannot reach it: try again in a moment.",
    504: "OpenNebula is busy, or a proxy before it cannot reach it: try again in a moment.",
}


class RefusedError(OneflowerError):
    """The cloud refused a request. `status` is that of HTTP; for refusals of the core it is 500."""

    def __init__(self, status: int, text: str, who: str = "OneFlow") -> None:
        hint = wording.hint_of_refusal(text) or _HINTS.get(status, "")
        super().__init__(f"{who} answered {status}: {text}", hint, ExitCode.CLOUD)
        self.status = status
        self.text = text

    @property
    def not_found(self) -> bool:
        """Whether there is no such object."""
        return self.status == _NOT_FOUND

    @property
    def forbidden(self) -> bool:
        """Whether the user may not do it."""
        return self.status == _FORBIDDEN

    @property
    def away(self) -> bool:
        """Whether a proxy answered because it could not reach the server."""
        return self.status in _AWAY


class UnreachableError(OneflowerError):
    """A server did not answer. `asked` tells whether it may have received the request."""

    def __init__(self, message: str, hint: str, *, asked: bool) -> None:
        super().__init__(message, hint, ExitCode.CLOUD)
        self.asked = asked


def unreachable(where: str, hint: str, error: Exception, *, asked: bool) -> OneflowerError:
    """Return the error to raise if a request to `where` ended with `error` instead of an answer."""
    if any(isinstance(inner, ssl.SSLCertVerificationError) for inner in chain(error)):
        return OneflowerError(
            f"{where} presents a certificate that is not trusted here.",
            "If it is the right one, name its CA: SSL_CERT_FILE and REQUESTS_CA_BUNDLE, both.",
            ExitCode.CLOUD,
        )
    return UnreachableError(
        f"{where} cannot be reached: {' '.join(str(error).split())[:300] or type(error).__name__}.",
        hint,
        asked=asked,
    )


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it. requests and urllib3 keep theirs in `args` and `reason`."""
    found, seen = [error], set()
    while found:
        one = found.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            parts = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
            found += [part for part in parts if isinstance(part, BaseException)]


def foreign(where: str) -> OneflowerError:
    """Return the error to raise if `where` gives an answer that OpenNebula would not give."""
    return OneflowerError(
        f"{where} gave an answer that OpenNebula would not give.",
        "Check the address: it must be that of the server itself, not of Sunstone or of a proxy's error page.",
        ExitCode.CLOUD,
    )


def reason(text: str) -> str:
    """Return the reason that the body of an error gives, in one line."""
    if text.lstrip()[:1] == "<":
        return "a page of HTML, from a proxy or another server"
    try:
        parsed = json.loads(text)
        text = parsed.get("reason") or parsed.get("message") or text
    except (ValueError, AttributeError):
        pass
    return " ".join(text.split())[:300] or "no reason given"
