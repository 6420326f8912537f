"""Who may talk to the server: the page that it served itself, with the token of its address.

Other sites' pages run in the same browser. They can send requests to 127.0.0.1, and by giving their
own name our address (DNS rebinding) even read the answers; so Host and Origin are checked, and what
does something needs the token (Jackson et al. 2007, "Protecting Browsers from DNS Rebinding").
"""

import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'self' http://localhost:* http://127.0.0.1:*"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
REFUSED = 1008  # the close code of WebSockets for what goes against a policy


@dataclass(frozen=True)
class Guard:
    """Checks of requests.

    Args:
        hosts: names and ports under which the server is reached, as browsers write them.
        token: of the printed address.
    """

    hosts: frozenset[str]
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    def refusal(self, scope: Scope) -> str | None:
        """Why a request is not answered; None for one that is."""
        hosts = _values(scope, b"host")
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            return "this server answers to its own address only"
        origins = _values(scope, b"origin")
        if any(origin not in self.origins for origin in origins):
            return "this server answers to its own page only"
        if scope["type"] == "websocket" and not self.has_token(scope):
            return "the token is missing or wrong; open the address that taming studio printed"
        return None

    @property
    def origins(self) -> frozenset[str]:
        return frozenset(f"http://{host}" for host in self.hosts)

    def has_token(self, scope: Scope) -> bool:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        values = query.get("token", [])
        return len(values) == 1 and hmac.compare_digest(values[0].encode(), self.token.encode())


class GuardedApp:
    """An ASGI application behind a guard; what passes gets the headers that keep others out."""

    def __init__(self, app: ASGIApp, guard: Guard):
        self.app, self.guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        reason = self.guard.refusal(scope)
        if reason is None:
            return await self.app(scope, receive, _with_headers(send))
        if scope["type"] == "websocket":
            await receive()
            return await send({"type": "websocket.close", "code": REFUSED, "reason": reason})
        await PlainTextResponse(reason, 403)(scope, receive, send)


def _with_headers(send: Send) -> Send:
    async def answer(message) -> None:
        if message["type"] == "http.response.start":
            headers = [(name.lower().encode(), text.encode()) for name, text in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *headers]}
        await send(message)

    return answer


def _values(scope: Scope, name: bytes) -> list[str]:
    return [text.decode("latin-1") for key, text in scope["headers"] if key == name]


def hosts_of(names: Iterable[str], port: int) -> frozenset[str]:
    """`127.0.0.1` and 8080 -> `127.0.0.1:8080`; IPv6 addresses in brackets; without the port where
    browsers leave it out.
    """
    bracketed = [f"[{name}]" if ":" in name else name for name in names]
    hosts = {f"{name}:{port}" for name in bracketed}
    return frozenset(hosts | (set(bracketed) if port == 80 else set()))
