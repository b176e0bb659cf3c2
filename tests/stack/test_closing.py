"""Closing a listener that forked relatives share does not wait for the manager; it happens all the same."""

from __future__ import annotations

import os
import signal
import subprocess

from neatstack.experiment.netns import Stack

CLOSES = """
import os, socket, sys
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])))
(told, tell), (asked, ask) = os.pipe(), os.pipe()
if os.fork():
    os.read(asked, 1)
    listener.close()
    os.write(tell, b"x")
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
print("forked", flush=True)
sys.stdin.readline()
listener.close()
print("closed", flush=True)
sys.stdin.readline()
os.write(ask, b"x")
os.read(told, 1)
socket.create_server(("0.0.0.0", int(sys.argv[1])))  # refused if we still hold the one that we have closed
"""


def test_the_manager_dies_before_it_has_closed(stack: Stack, port: int) -> None:
    """Its successor is told again, with the next request."""
    argv = stack.programs.argv("python3", "-c", CLOSES, port)
    manager = stack.status()["processes"]["manager"]["pid"]
    with subprocess.Popen(argv, env=stack.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "forked\n"
        os.kill(manager, signal.SIGSTOP)
        try:
            process.stdin.write("close\n")
            process.stdin.flush()
            assert process.stdout.readline() == "closed\n"
        finally:
            os.kill(manager, signal.SIGKILL)
        assert stack.status()["processes"]["manager"]["pid"] != manager
        process.stdin.write("bind\n")
        process.stdin.flush()
        assert process.wait(20) == 0
