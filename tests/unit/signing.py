"""Requests that a SuperNode signed."""

from __future__ import annotations

import base64
import datetime

from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes, sign_message

from tests.unit.served import PROTOBUF


class SuperNode:
    """A key, and the headers that Flower signs with it."""

    def __init__(self, private=None):
        self.private = private or generate_key_pairs()[0]
        self.key = public_key_to_bytes(self.private.public_key())

    def headers(self, age=0.0, signed=None):
        at = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age)).isoformat()
        signature = sign_message(self.private, (signed or at).encode())
        return PROTOBUF | {
            "flwr-public-key": base64.b64encode(self.key).decode(),
            "flwr-timestamp": at,
            "flwr-signature": base64.b64encode(signature).decode(),
        }
