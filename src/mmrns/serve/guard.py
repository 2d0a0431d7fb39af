"""What stands before every question: who may ask, how much, and what a browser may do with the answer."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from fastapi import HTTPException

from mmrns.serve.limits import Refusal

# The types of ASGI.
Message = Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOG = logging.getLogger(__name__)
API = "/api/v1"
OPEN = {f"{API}/health", f"{API}/openapi.json"}
"""What is answered without a token: neither says anything of the runs."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Pages load nothing from elsewhere, run no script that stands in them, and are in no frame."""
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Guard:
    """Checks the host, the token and the size of each question, and adds `HEADERS` to each answer.

    Args:
        app: what answers.
        token: that `Authorization: Bearer TOKEN` must give; None = anybody may ask.
        hosts: names under which the service may be asked; None = any. A page of another site that makes its own name
            point here (DNS rebinding) gives that name.
        body: bytes of a question at most.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Collection[str] | None, body: int):
        self.app, self.body = app, body
        self.token = None if token is None else token.encode()
        self.hosts = None if hosts is None else {host.encode() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One question; see ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        began = False

        async def sent(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        headers: dict[bytes, bytes] = dict(scope["headers"])
        refusal = self._refusal(scope["path"], headers)
        if refusal is not None:
            await _answer(refusal, sent)
            return
        try:
            await self.app(scope, self._bounded(receive), sent)
        except Exception:
            # What it was stands in the log; it may name what a client should not see.
            _LOG.exception("failed at %s", scope["path"])
            if not began:
                await _answer(Refusal(500, "the service failed at this question; its log says where"), sent)

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> Refusal | None:
        if self.hosts is not None and _host(headers.get(b"host", b"")) not in self.hosts:
            return Refusal(400, "the service is not known under the name in `Host`; give a token to serve it elsewhere")
        if self.token is not None and path.startswith(f"{API}/") and path not in OPEN:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self.token):
                headers_ = {"WWW-Authenticate": 'Bearer realm="mmrns"'}
                return Refusal(401, "give the token of the service: `Authorization: Bearer TOKEN`", headers=headers_)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.body:
            return self._too_large
        return None

    @property
    def _too_large(self) -> Refusal:
        return Refusal(413, f"a question may have {self.body:,} bytes at most; ask in several")

    def _bounded(self, receive: Receive) -> Receive:
        """The same, which raises where more comes than may: a body that comes in pieces has no length beforehand."""
        got = 0

        async def bounded() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > self.body:
                raise HTTPException(413, self._too_large.message)
            return message

        return bounded


def _host(header: bytes) -> bytes:
    """A host without its port, which follows the brackets of a number of version 6."""
    name, _, port = header.rpartition(b":")
    return (name if port.isdigit() and name else header).lower()


async def _answer(refusal: Refusal, send: Send) -> None:
    body = json.dumps(refusal.body).encode()
    headers: list[Any] = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(key.lower().encode(), value.encode()) for key, value in (refusal.headers or {}).items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
