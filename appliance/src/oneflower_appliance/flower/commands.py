"""The command lines of `flower-superlink` and `flower-supernode`, made from orders.

Supported: Flower 1.41 and 1.42, where one HTTP(S) application serves the Fleet, Control and Runtime APIs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower_appliance.orders import SuperLinkOrders, SuperNodeOrders

_LITERAL = re.compile(r"true|false|[+-]?\d+(\.\d+)?|\".*\"|'.*'")


def superlink_arguments(orders: SuperLinkOrders) -> list[str]:
    """Return the options of `flower-superlink`."""
    host, port = orders.control
    files = orders.certificates
    secured = (
        [
            "--ssl-ca-certfile", str(files.ca),
            "--ssl-certfile", str(files.certificate),
            "--ssl-keyfile", str(files.key),
        ]
        if files
        else ["--insecure"]
    )  # fmt: skip
    return [
        "--host", host,
        "--port", str(port),
        "--database", str(orders.database),
        "--disable-runtime-dependency-installation",
        *(["--enable-supernode-auth"] if orders.authenticate else []),
        *secured,
    ]  # fmt: skip


def supernode_arguments(orders: SuperNodeOrders) -> list[str]:
    """Return the options of `flower-supernode`."""
    host, port = orders.listen
    return [
        "--superlink", orders.superlink,
        "--host", host,
        "--port", str(port),
        *(["--root-certificates", str(orders.ca)] if orders.ca else ["--insecure"]),
        *(["--auth-supernode-private-key", str(orders.key)] if orders.key else []),
        *(["--node-config", node_config_text(orders.node_config)] if orders.node_config else []),
        *(["--max-retries", str(orders.max_retries)] if orders.max_retries else []),
        *(["--max-wait-time", str(orders.max_wait_time)] if orders.max_wait_time else []),
    ]  # fmt: skip


def node_config_text(pairs: Mapping[str, str]) -> str:
    """Return a node config as Flower reads it: TOML values, so a bare word is quoted."""
    return " ".join(
        f"{key}={value}" if _LITERAL.fullmatch(value) else f'{key}="{value}"' for key, value in pairs.items()
    )
