"""Suites that were written for other stacks: both ends of every connection are on this one."""

from __future__ import annotations

import pytest

from neatstack.experiment.netns import Stack

PYTHON = "/usr/bin/python3"  # Debian's, whose suite is a package of its own
MODULES = (
    "test_socket", "test_httplib", "test_poplib", "test_ftplib", "test_epoll",
    "test_asyncio.test_sock_lowlevel", "test_asyncio.test_streams", "test_asyncio.test_server",
    "test_asyncio.test_events", "test_asyncio.test_sendfile",
    "test_asyncore", "test_asynchat", "test_smtplib", "test_smtpd", "test_nntplib", "test_telnetlib", "test_select",
    "test_urllib2_localnet", "test_httpservers", "test_timeout", "test_wsgiref", "test_robotparser",
)  # fmt: skip
PASSING = "WithProcessesTestPicklingConnections", "WithProcessesTestConnection", "WithProcessesTestListenerClient"
CLASSES = (  # of modules that take minutes, or want a network when they are run as the others
    "test_socketserver", *(f"test_multiprocessing_fork.{name}" for name in PASSING),
    *(f"test_multiprocessing_forkserver.{name}" for name in (*PASSING, "TestWait.test_wait_socket")),
)  # fmt: skip
IGNORED = (
    "*VSOCK*",  # of another family, which hangs on machines without a hypervisor
    # What was sent shall have come by the time that send() returns, which no network promises, nor two processes.
    "test.test_epoll.TestEPoll.test_control_and_wait",  # tests/client/test_waiting.py: test_edges_of_both_ends
)


@pytest.mark.heavy
def test_pythons(stack: Stack) -> None:
    """CPython's own tests of its socket module, and of what is built on it."""
    ignored = [word for pattern in IGNORED for word in ("-i", pattern)]
    argv = [PYTHON, "-m", "test", "-j", 3, "--timeout", 100, "--tempdir", stack.lab.directory, *ignored, *MODULES]
    said = stack.programs.run(*argv, timeout=280, check=False)
    assert "result: SUCCESS" in said, said[-6000:]


@pytest.mark.heavy
def test_pythons_processes(stack: Stack) -> None:
    """Servers that fork, and sockets that pass from process to process, whether forked or started anew."""
    stack.programs.run(PYTHON, "-m", "unittest", *(f"test.{name}" for name in CLASSES), timeout=100)
