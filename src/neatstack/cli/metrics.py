"""`neat metrics`: a stack's counters for Prometheus."""

from typing import Annotated

import typer

from neatstack.control import rundir
from neatstack.control.errors import NeatError

EXAMPLES = (
    "Examples: [bold]neat metrics[/] · [bold]neat metrics --stack web --listen 127.0.0.1:9200[/] · "
    "[bold]neat metrics --once[/] · [bold]neat metrics --grafana > neat.json[/] (to import into Grafana)"
)
DEFAULT_LISTEN = "127.0.0.1:9177"


def metrics(
    stack: Annotated[str | None, typer.Option(metavar="NAME", help="Which stack.", show_default="the only one")] = None,
    listen: Annotated[str, typer.Option(metavar="ADDRESS:PORT", help="Where to answer scrapes.")] = DEFAULT_LISTEN,
    once: Annotated[bool, typer.Option("--once", help="Print the page and exit.")] = False,
    grafana: Annotated[bool, typer.Option("--grafana", help="Print a dashboard for Grafana and exit.")] = False,
) -> None:
    """Answer Prometheus at http://ADDRESS:PORT/metrics until interrupted; a stack is asked when it is scraped."""
    if grafana:
        print(dashboard(), end="")
        return

    from neatstack.observe import endpoint
    from neatstack.observe.client import check_right

    place = endpoint.Listen.parse(listen)
    name = rundir.find(stack)
    check_right(name)
    if once:
        text, problem = endpoint.page(name)
        print(text, end="")
        if problem:
            raise NeatError(problem)
        return
    endpoint.serve(name, place, lambda url: print(f"metrics of stack {name}: {url}", flush=True))


def dashboard() -> str:
    """The file that Grafana imports."""
    from importlib.resources import files

    return (files("neatstack.observe") / "grafana.json").read_text()
