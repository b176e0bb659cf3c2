"""`neat dashboard`: a web page of a running stack."""

import contextlib
import re
from pathlib import Path
from typing import Annotated

import typer

from neatstack.control import rundir
from neatstack.control.errors import NeatError

EXAMPLES = (
    "Examples: [bold]neat dashboard[/] · [bold]neat dashboard --stack web --listen 127.0.0.1:9000[/] · "
    "[bold]neat dashboard --listen 0.0.0.0:8077 --token-file token[/]"
)
LEGAL = re.compile(r"[A-Za-z0-9._~-]+")  # what URLs and cookies hold as it is
SHORTEST = 16  # characters of a token
RANDOM = 32  # bytes of one that we make


def dashboard(
    stack: Annotated[str | None, typer.Option(metavar="NAME", help="Which stack.", show_default="the only one")] = None,
    listen: Annotated[
        str, typer.Option(metavar="ADDRESS:PORT", help="Beyond this host only with a token, which is printed.")
    ] = "127.0.0.1:8077",
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Holds the token that every request must show.", show_default="made anew"),
    ] = None,
) -> None:
    """Show a stack in the browser while it runs: steering, throughput, events; kill, scale and rejuvenate."""
    from neatstack.dashboard.address import Address
    from neatstack.observe.client import check_right

    address = Address.parse(listen)
    token = read_token(token_file) if token_file else None if address.is_local else make_token()
    name = rundir.find(stack)
    check_right(name)
    listener = address.open()
    url = address.url(listener.getsockname()[1])
    shown = f"{url}?token={token}" if token and not token_file else url

    import asyncio

    from neatstack.dashboard.server import serve

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(name, listener, token, lambda: print(f"dashboard of stack {name}: {shown}", flush=True)))


def make_token() -> str:
    """One that nobody guesses."""
    import secrets

    return secrets.token_urlsafe(RANDOM)


def read_token(file: Path) -> str:
    """The token in `file`. Raises NeatError."""
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "no text"
        raise NeatError(f"cannot read the token in {file}: {why}; name another --token-file") from None
    if len(token) < SHORTEST or not LEGAL.fullmatch(token):
        remedy = "put one there, such as `openssl rand -hex 32` makes"
        raise NeatError(f"{file} holds no token of at least {SHORTEST} letters, digits, - . _ ~; {remedy}")
    return token
