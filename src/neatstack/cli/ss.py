"""`neat ss`: connections and listeners, as `ss -tanpi` shows the kernel's."""

import json
from typing import Annotated, Any

import typer

from neatstack.control import rundir

EXAMPLES = "Examples: [bold]neat ss[/] · [bold]neat ss --stack web --json[/]"
UNKNOWN_SSTHRESH = 1 << 30  # bytes: no loss yet
ROW = "{:<11} {:>7} {:>7} {:>22} {:>22}  {:<7} {}"


def ss(
    stack: Annotated[str | None, typer.Option(metavar="NAME", help="Which stack.", show_default="the only one")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Show the connections and listeners of a stack."""
    answer = rundir.ask(rundir.find(stack), {"op": "ss"})
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    print(ROW.format("State", "Recv-Q", "Send-Q", "Local:Port", "Peer:Port", "Replica", "Process").rstrip())
    for listener in answer["listeners"]:
        local = f"{listener['address']}:{listener['port']}"
        users = ",".join(_user(program) for program in listener["programs"])
        print(ROW.format("LISTEN", 0, listener["backlog"], local, "0.0.0.0:*", "all", users).rstrip())
    for connection in answer["connections"]:
        _print_connection(connection)


def _print_connection(connection: dict[str, Any]) -> None:
    """One connection in a line, and what TCP knows of it in a second one."""
    local = f"{connection['local_address']}:{connection['local_port']}"
    remote = f"{connection['remote_address']}:{connection['remote_port']}"
    user = _user(connection) if "pid" in connection else ""
    queues = connection.get("recv_q", 0), connection.get("send_q", 0)
    print(ROW.format(connection["state"], *queues, local, remote, connection["replica"], user).rstrip())
    shown = ("rto", "rtt", "rttvar", "mss", "cwnd", "ssthresh", "wscale", "bytes_in", "bytes_out", "retransmits")
    known = {name: connection.get(name) for name in shown if name != "ssthresh" or connection[name] < UNKNOWN_SSTHRESH}
    details = " ".join(f"{name}:{value}" for name, value in known.items() if value)
    if details:
        print(f"\t {details}")


def _user(program: dict[str, Any]) -> str:
    return f"{program['program']}({program['pid']})"
