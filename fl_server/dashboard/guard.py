"""Who may read the dashboard, and what a browser may do with it: before any page is made."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
METHODS = ("GET", "HEAD")
COOKIE = "fedprint-dashboard"
LONGEST_URL = 4096
WITHOUT_TOKEN = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>fedprint dashboard: token wanted</title>
<h1>This dashboard wants a token</h1>
<p>Open the address that <code>fedprint server dashboard</code> printed, or give its token:</p>
<form method="get" action="/"><label>Token <input name="token" type="password" required></label>
<button>Open</button></form></html>
"""


class Guard:
    """Refuses what is not a read by somebody who may, and sets the headers of all answers.

    Parameters
    ----------
    app : ASGIApp
        What answers the rest.
    names : iterable of str
        Host names under which the dashboard may be asked for. Addresses always may: another site's
        page can make its own *name* point here, but never a bare address.
    token : str
        What a reader must know; empty lets in everybody who can connect.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str], token: str = "") -> None:
        self._app = app
        self._names = frozenset(name.lower() for name in names)
        self._token = token
        self._cookie = hashlib.sha256(b"dashboard cookie\n" + token.encode()).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return  # neither web sockets nor anything else: the server closes what is not answered

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer: ASGIApp = self._refusal(scope) or self._app
        await answer(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return what to answer instead of the page; None lets the request through."""
        headers = Headers(scope=scope)
        if not self._known(headers.getlist("host")):
            return _words(421, "unknown host: open the address that fedprint printed")
        if scope["method"] not in METHODS:
            refusal = _words(405, "the dashboard only reads: GET and HEAD")
            refusal.headers["Allow"] = ", ".join(METHODS)
            return refusal
        if len(scope["path"]) + len(scope["query_string"]) > LONGEST_URL:
            return _words(414, "the address is too long")
        if not self._token or self._proven(headers):
            return None
        return self._enter(scope)

    def _known(self, hosts: list[str]) -> bool:
        if len(hosts) != 1:
            return False
        name = host_name(hosts[0])
        return name in self._names or _is_address(name)

    def _proven(self, headers: Headers) -> bool:
        said = headers.get("authorization", "")
        if said.startswith("Bearer ") and _same(said[len("Bearer ") :], self._token):
            return True
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        return COOKIE in cookies and _same(cookies[COOKIE].value, self._cookie)

    def _enter(self, scope: Scope) -> Response:
        """Take a token out of the address and put a cookie in its place."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=None)
        given = [value for name, value in query if name == "token"]
        if len(given) != 1 or not _same(given[0], self._token):
            return HTMLResponse(WITHOUT_TOKEN, 401, {"WWW-Authenticate": "Bearer"})
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        path = "/" + scope["path"].lstrip("/\\")  # never //elsewhere, which is another host
        answer = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
        answer.set_cookie(COOKIE, self._cookie, httponly=True, samesite="strict")
        return answer


def host_name(host: str) -> str:
    """Return a ``Host`` header's name or address, without port and brackets, in lower case.

    Of brackets with anything but a port behind them nothing is left: no such host is known.
    """
    host = host.strip().lower()
    if host.startswith("["):
        address, closed, port = host[1:].partition("]")
        return address if closed and (not port or port.startswith(":")) else ""
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach what is bound to a host."""
    if host == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), right.encode())


def _words(status: int, words: str) -> Response:
    return PlainTextResponse(f"{words}\n", status)
