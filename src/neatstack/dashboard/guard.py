"""Who may see the dashboard and act on the stack: in front of every request.

On loopback everybody on this host may look, but not the web pages of strangers that run in a browser on this host:
they could reach us under a name of their own that they point to 127.0.0.1 (DNS rebinding), so the Host header must name
this host. Elsewhere each request needs the token, which a page under another name cannot have: browsers keep the
cookie with the name it came under.
Whatever changes something must come from our own page: with a header that a browser adds to no request to another
origin without asking us first, which we never allow.
"""

import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ACTION_HEADER = "x-neat-action"
SAFE = ("GET", "HEAD")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Middleware: refuses what must not be, and puts the security headers on every answer."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._answer(scope)
        await (refusal or self.app)(scope, receive, with_headers)

    def _answer(self, scope: Scope) -> Response | None:
        """The answer to a request that must not get through."""
        headers = Headers(scope=scope)
        if self.token is None:
            if not names_this_host(headers.get("host", "")):
                return PlainTextResponse("open the dashboard as 127.0.0.1 or localhost", 421)
        else:
            given = QueryParams(scope["query_string"]).get("token")
            if scope["method"] in SAFE and scope["path"] == "/" and given is not None and self._is_token(given):
                return self._signed_in(scope)
            if not any(map(self._is_token, self._presented(headers, scope))):
                refused = "a token is needed: open the address that `neat dashboard` printed"
                return PlainTextResponse(refused, 401, {"WWW-Authenticate": "Bearer"})
        if scope["method"] not in SAFE and not is_from_our_page(headers):
            return PlainTextResponse("only the dashboard's own page may ask for this", 403)
        return None

    def _is_token(self, given: str) -> bool:
        """Compared in a time that tells nothing of how much is right."""
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def _signed_in(self, scope: Scope) -> Response:
        """The page under an address without the token, which then is in no history and no bookmark."""
        answer = RedirectResponse("/", 303)
        answer.set_cookie(cookie_name(scope), self.token or "", httponly=True, samesite="strict", path="/")
        return answer

    def _presented(self, headers: Headers, scope: Scope) -> list[str]:
        """The tokens that a request shows."""
        presented = []
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            presented.append(bearer.strip())
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(cookie_name(scope))
        except CookieError:
            cookie = None
        if cookie is not None:
            presented.append(cookie.value)
        return presented


def cookie_name(scope: Scope) -> str:
    """One for each port: browsers do not keep the cookies of a host's ports apart."""
    return f"neat-dashboard-{scope['server'][1]}"


def names_this_host(host: str) -> bool:
    """Does a Host header name this very machine, on whatever port (it may have been forwarded)?"""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_from_our_page(headers: Headers) -> bool:
    """Has our own page made this request, or somebody who is no browser?"""
    origin = headers.get("origin")
    same = origin is None or urlsplit(origin).netloc == headers.get("host")
    return ACTION_HEADER in headers and same and headers.get("sec-fetch-site", "same-origin") == "same-origin"
