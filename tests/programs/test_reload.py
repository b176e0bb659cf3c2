"""Servers that replace their workers, or themselves, under load: no request fails, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from neatstack.experiment.footprint import Tolerance
from neatstack.experiment.netns import Lab, Process, Stack
from neatstack.experiment.reload import FILES, Plan, Result, experiment
from neatstack.experiment.web_load import Site, WebLoad

TOLERANCE = Tolerance(private=6 << 20)  # the manager's memory has not settled after so few
LIGHTTPD = """
server.port = {port}
server.bind = "0.0.0.0"
server.document-root = "{root}"
server.feature-flags = ("server.graceful-shutdown-timeout" => 10)
"""
REUSEPORT_SERVER = Path(__file__).parent / "reuseport_server.py"


def run(plan: Plan) -> Result:
    with Lab() as lab:
        result = experiment(lab, plan, lambda place, course: None)
    assert result.stack.reloads == plan.reloads
    assert not result.stack.tally.failed, result.stack.tally.failures
    assert not result.grown
    return result


def test_nginx_reloads_under_load() -> None:
    """No request fails; idle connections end as they do on the kernel, in order."""
    result = run(Plan(25, 10, every=25, warm_up=10, tolerance=TOLERANCE))
    assert result.stack.tally.answered > 1000 and not result.kernel.tally.failed
    assert result.stack.tally.reset_idle <= result.stack.tally.closed_idle / 2


def test_nginx_reloads_while_replicas_die() -> None:
    result = run(Plan(20, 1, every=20, warm_up=10, kill_every=0.7, tolerance=TOLERANCE))
    assert result.stack.kills > 1


def wait_until(condition: Callable[[], bool], limit: float = 15.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


@pytest.fixture
def site(stack: Stack, port: int, tmp_path: Path) -> Site:
    """Files for a server that is to come; their directory is `tmp_path`."""
    files = {name: os.urandom(size) for name, size in FILES.items()}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    tmp_path.chmod(0o755)
    return Site(stack.address, port, files)


def test_lighttpd_restarts_gracefully(stack: Stack, site: Site, tmp_path: Path) -> None:
    config = tmp_path / "lighttpd.conf"
    config.write_text(LIGHTTPD.format(port=site.port, root=tmp_path))
    with stack.lab.scope():
        server = stack.programs.spawn("lighttpd", "-D", "-f", config)
        stack.host.wait_port(site.address, site.port, process=server)
        with WebLoad(stack.host, site, fresh=4, kept=4, slow=1) as load:
            for restarts in range(1, 4):
                time.sleep(0.2)
                server.popen.send_signal(signal.SIGUSR1)
                wait_until(lambda restarts=restarts: server.output.count("server started") == 1 + restarts)
            time.sleep(0.2)
        tally = load.tally()
    assert not tally.failed and tally.answered > 100, tally


def test_handing_over_by_reuseport(stack: Stack, site: Site, tmp_path: Path) -> None:
    """The new process binds and listens before the old one stops: what waits there is not lost."""

    def start() -> Process:
        started = stack.programs.spawn(sys.executable, REUSEPORT_SERVER, site.address, site.port, tmp_path)
        wait_until(lambda: "listening" in started.output)
        return started

    with stack.lab.scope():
        server = start()
        with WebLoad(stack.host, site, fresh=4, kept=4, slow=1) as load:
            for _ in range(4):
                old, server = server, start()
                time.sleep(0.1)
                os.kill(old.pid, signal.SIGTERM)
                assert old.wait(10) == 0, old.output
        tally = load.tally()
    assert not tally.failed and not tally.closed_idle and tally.answered > 100, tally
