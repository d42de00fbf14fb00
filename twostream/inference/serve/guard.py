"""What stands before every request: whom the page answers, and the headers that tie a browser's hands."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


class Guard:
    """Middleware that refuses requests of other sites, in whatever way they come, and sets the headers of safety.

    - A name that an attacker makes resolve to this machine (DNS rebinding) is refused: only `localhost`, `host` and
      plain addresses may stand in `Host`; what machine an address means is not for an attacker to say.
    - A request that changes something and was sent by a page of another origin is refused.

    Args:
        app: what is guarded.
        host: the name or address that the server was told to listen on.
    """

    def __init__(self, app: ASGIApp, host: str):
        self._app = app
        self._names = {"localhost", host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope["method"], Headers(scope=scope))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = PlainTextResponse(refusal, status_code=403) if refusal else self._app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers) -> str:
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or "" if _sane(host) else ""
        if name not in self._names and not _is_address(name):
            return "This address is not one of this server."
        if method in ("GET", "HEAD"):
            return ""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if (origin is not None and urlsplit(origin).netloc != host) or site not in ("same-origin", "none"):
            return "Requests of other sites are refused."
        return ""


def _sane(host: str) -> bool:
    """Whether a Host header is a name or address and a port, nothing that a URL parser could read differently."""
    return bool(host) and all(character.isalnum() or character in ".-_:[]" for character in host)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
