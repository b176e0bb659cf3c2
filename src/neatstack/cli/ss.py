"""`neat ss`: connections, listeners and UDP sockets, as `ss -tuanpi` shows the kernel's."""

import json
from typing import Annotated, Any

import typer

from neatstack.control import rundir
from neatstack.control.addressing import endpoint

EXAMPLES = "Examples: [bold]neat ss[/] · [bold]neat ss --stack web --json[/]"
UNKNOWN_SSTHRESH = 1 << 30  # bytes: no loss yet
ENDS = 22  # characters that an address and a port have at least
ROW = "{:<11} {:>7} {:>7} {:>{width}} {:>{width}}  {:<7} {}"


def ss(
    stack: Annotated[str | None, typer.Option(metavar="NAME", help="Which stack.", show_default="the only one")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Show the connections, listeners and UDP sockets of a stack."""
    answer = rundir.ask(rundir.find(stack), {"op": "ss"})
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    rows = [(("State", "Recv-Q", "Send-Q", "Local:Port", "Peer:Port", "Replica", "Process"), "")]
    rows += [(_open("LISTEN", listener), "") for listener in answer["listeners"]]
    rows += [
        (_open("UNCONN", datagrams), _groups(datagrams)) for datagrams in answer.get("datagrams", [])
    ]  # not of an older manager
    rows += [(_connection(connection), _details(connection)) for connection in answer["connections"]]
    width = max(ENDS, *(len(end) for row, _ in rows for end in row[3:5]))
    for row, details in rows:
        print(ROW.format(*row, width=width).rstrip())
        if details:
            print(f"\t {details}")


def _open(state: str, binding: dict[str, Any]) -> tuple[Any, ...]:
    """A listener, or a UDP socket: every replica has it."""
    users = ",".join(_user(program) for program in binding["programs"])
    anybody = endpoint("::" if ":" in binding["address"] else "0.0.0.0", "*")
    return state, 0, binding.get("backlog", 0), endpoint(binding["address"], binding["port"]), anybody, "all", users


def _groups(datagrams: dict[str, Any]) -> str:
    return " ".join(f"group:{group}" for group in datagrams["groups"])


def _connection(connection: dict[str, Any]) -> tuple[Any, ...]:
    ends = (endpoint(connection[f"{end}_address"], connection[f"{end}_port"]) for end in ("local", "remote"))
    queues = connection.get("recv_q", 0), connection.get("send_q", 0)
    user = _user(connection) if "pid" in connection else ""
    return connection["state"], *queues, *ends, connection["replica"], user


def _details(connection: dict[str, Any]) -> str:
    """What TCP knows of it, for a second line."""
    shown = ("rto", "rtt", "rttvar", "mss", "cwnd", "ssthresh", "wscale", "bytes_in", "bytes_out", "retransmits")
    known = {name: connection.get(name) for name in shown if name != "ssthresh" or connection[name] < UNKNOWN_SSTHRESH}
    return " ".join(f"{name}:{value}" for name, value in known.items() if value)


def _user(program: dict[str, Any]) -> str:
    return f"{program['program']}({program['pid']})"
