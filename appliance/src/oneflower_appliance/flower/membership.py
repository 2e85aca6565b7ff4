"""Decides from the headers of a request, before its body is received, whether the Fleet API may serve it.

A SuperNode signs the time of each request. Flower checks the signature only when it has the whole body.
"""

from __future__ import annotations

from base64 import b64decode
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from oneflower_appliance.flower import internals, places

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.datastructures import Headers

_CLOSE = {"Connection": "close"}
_REGISTER, _ACTIVATE = "/v1/fleet/register-node", "/v1/fleet/activate-node"


class NotAMemberError(Exception):
    """The request is not from a registered SuperNode. The answer is Flower's own."""

    def __init__(self, answer: JSONResponse) -> None:
        super().__init__()
        self.answer = answer


class Membership:
    """The SuperNodes of the SuperLink that `flower` is the application of."""

    def __init__(self, flower: FastAPI) -> None:
        self._state = places.application_state(flower)
        self._auth = internals.node_authentication()
        self._errors = internals.error_catalog()
        self._codes = internals.error_codes()
        self._activate = internals.fleet_messages().ActivateNodeRequest

    def member(self, path: str, headers: Headers) -> str:
        """Return the key that identifies the sender of a request; empty if the request is open to unknown senders.

        Raises `NotAMemberError` if the request must be refused. This reads Flower's database, so it takes a while.
        """
        key = self.signer(headers)
        state = self._state
        if state.linkstate_factory.state().get_node_id_by_public_key(key) is not None:
            return key.hex()
        if path == _REGISTER and not state.enable_supernode_auth:
            return ""
        # In Flower's words, from which a SuperNode reports what is wrong.
        if path == _REGISTER:
            raise NotAMemberError(self._refusal(self._codes.FLEET_SUPERNODE_REGISTRATION_DISABLED))
        if path == _ACTIVATE:
            raise NotAMemberError(self._refusal(self._codes.FLEET_NODE_ACTIVATION_FAILED))
        raise NotAMemberError(unauthorized())

    def signer(self, headers: Headers) -> bytes:
        """Return the public key that signed a request just now. Raises `NotAMemberError` if none did."""
        try:
            key = b64decode(headers[self._auth.FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
            # In a request to activate, Flower compares the key; in others the node id, which is in the body.
            asked = SimpleNamespace(protobuf_request=self._activate(public_key=key))
            self._auth.authenticate_node(SimpleNamespace(headers=headers, state=asked))
        except Exception as error:  # whatever it is, it is not a valid signature
            raise NotAMemberError(unauthorized()) from error
        return key

    def _refusal(self, code: Any) -> JSONResponse:
        known = self._errors.API_ERROR_MAP[code]
        return JSONResponse({"code": int(code), "detail": known.public_message}, known.http_status_code, _CLOSE)


def unauthorized() -> JSONResponse:
    """Return Flower's answer to a request that no SuperNode signed."""
    return JSONResponse({"detail": "Invalid SuperNode authentication"}, 401, _CLOSE)
