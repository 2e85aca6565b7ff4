"""Reads the body of a request to OneFlow. A missing part is refused in the words of the real server."""

from __future__ import annotations

from typing import Any

from oneflower.local import ruby
from oneflower.local.errors import internal
from oneflower.local.wire import whole


def action_of(body: Any) -> tuple[str, dict[str, Any] | None]:
    """Return the name and the parameters of an action. Raises `CloudError` 500 if the body holds no action."""
    action = body.get("action") if isinstance(body, dict) else None
    if not isinstance(action, dict):
        raise internal("undefined method `[]' for nil:NilClass")
    params = action.get("params")
    if params is not None and not isinstance(params, dict):
        raise internal("no implicit conversion of String into Integer")
    return ruby.text(action.get("perform")), params


def pace_of(params: dict[str, Any] | None) -> tuple[int, int]:
    """Return the period and the number of an action on VMs. Raises `CloudError` 500 if there are no parameters."""
    if params is None:
        code = "    opts['period'] ||= conf[:action_period]\n        ^^^^^^^^^^"
        raise internal(f"undefined method `[]' for nil:NilClass\n\n{code}")
    period, number = params.get("period"), params.get("number")
    return number_of(60 if period is None else period), number_of(1 if number is None else number)


def number_of(value: Any) -> int:
    """Return what Ruby's to_i makes of a value. Raises `CloudError` 500 if the value has no to_i."""
    if isinstance(value, bool | dict | list):
        raise internal(ruby.no_method("to_i", value))
    return int(value) if isinstance(value, int | float) else whole(ruby.text(value))


def text_of(value: Any) -> str:
    """Return a value that must be text. Raises `CloudError` 500 if it is not."""
    if not isinstance(value, str):
        raise internal(f"no implicit conversion of {ruby.kind(value)} into String")
    return value
