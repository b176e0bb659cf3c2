"""The keeper: holds every descriptor of the stack and restarts the manager. Nothing else, so that it never fails.

What it holds is a store of named entries, each some data and some descriptors, written and read by the manager (the
protocol is in docs/architecture.md). It understands two things of them: an entry whose data has `"process": true` has a
pidfd as its first descriptor, and that process ends with the stack; and `manager`, if there is one, says which
installation the next manager is of. Its data is emptied when managers of that do not live.

Its arguments are the stack's directory, the settings as JSON, and two descriptors that it is started with: the
locked keeper.pid of the directory, and where the manager reports that the stack is ready, or why not; then, if the
stack is only for its parent's life, --end-with-parent.
"""

import contextlib
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from neatstack.control import launch, messages

BACKOFF_LEAST, BACKOFF_MOST = 0.02, 5.0  # seconds between two managers
STEADY = 5.0  # a manager that has lived so long resets the backoff
QUICK_ENDS = 4  # in a row, after which another installation's manager is given up
LAST_WAIT = 2.0  # seconds for killed processes to go
FATES = 256  # ended processes whose end is remembered
DESCRIPTORS = 1 << 20  # RLIMIT_NOFILE to ask for


class Keeper:
    """The store, the manager's process and the end of both."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.entries: dict[str, tuple[dict[str, Any], list[int]]] = {}
        self.fates: dict[int, int] = {}  # pid -> exit status or minus the signal, of orphans; the latest last
        self.status: int | None = None  # exit status once the stack shall end
        self.manager: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None
        self.started = 0.0
        self.start_at: float | None = 0.0  # when to start a manager; None: one is running
        self.backoff = BACKOFF_LEAST
        self.quick_ends = 0  # managers in a row that did not live long, since there was a choice

    def put(self, key: str, data: dict[str, Any], descriptors: list[int]) -> None:
        """Hold `data` and `descriptors` under `key` in place of what was there."""
        self.drop(key)
        self.entries[key] = (data, descriptors)

    def drop(self, key: str) -> None:
        """Forget `key` and close its descriptors."""
        messages.close(self.entries.pop(key, ({}, []))[1])

    def serve(self) -> None:
        """Do what the manager's next message says."""
        assert self.channel is not None
        try:
            received = messages.receive(self.channel)
        except ValueError as error:
            print(f"keeper: {error}", file=sys.stderr)
            return
        except OSError:
            received = None
        if received is None:
            self.forget_channel()
            return
        message, descriptors = received
        match message:
            case {"op": "put", "key": str(key), "data": dict(data)}:
                self.put(key, data, descriptors)
                return
            case {"op": "drop", "key": str(key)}:
                self.drop(key)
            case {"op": "list"}:
                self.answer_list()
            case {"op": "fate", "pid": int(pid)}:
                self.answer_fate(pid)
            case {"op": "end"}:
                self.status = int(message.get("status", 0))
        messages.close(descriptors)

    def answer_list(self) -> None:
        """Every entry in a message of its own, in the order of the last put, then one without a key."""
        assert self.channel is not None
        with contextlib.suppress(OSError):
            for key, (data, descriptors) in self.entries.items():
                messages.send(self.channel, {"key": key, "data": data}, descriptors)
            messages.send(self.channel, {"end": True})

    def answer_fate(self, pid: int) -> None:
        """How a process ended whose parent, a former manager, is dead."""
        self.reap()
        if self.channel is not None:  # the manager may be among the dead
            with contextlib.suppress(OSError):
                messages.send(self.channel, {"fate": self.fates.pop(pid, None)})

    def start_manager(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        number = theirs.fileno()
        self.manager = subprocess.Popen(
            launch.command("neatstack.control.manager", self.directory, **self.entries.get("manager", ({}, []))[0]),
            pass_fds=[number],
            env={**os.environ, "NEAT_KEEPER": str(number)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is for the keeper
        )
        theirs.close()
        self.channel, self.started, self.start_at = ours, time.monotonic(), None

    def forget_channel(self) -> None:
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def reap(self) -> None:
        """Collect ended children, orphans of the stack among them; plan the next manager if it was the manager."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if self.manager is not None and pid == self.manager.pid:
                    self.manager_ended()
                    continue
                self.fates.pop(pid, None)
                self.fates[pid] = os.waitstatus_to_exitcode(status)
                if len(self.fates) > FATES:
                    del self.fates[next(iter(self.fates))]

    def manager_ended(self) -> None:
        while self.channel is not None and self.status is None and select.select([self.channel], [], [], 0)[0]:
            self.serve()  # what it had still said
        self.forget_channel()
        self.manager = None
        now = time.monotonic()
        steady = now - self.started > STEADY
        self.backoff = BACKOFF_LEAST if steady else min(self.backoff * 2, BACKOFF_MOST)
        self.quick_ends = 0 if steady or "manager" not in self.entries else self.quick_ends + 1
        if self.quick_ends >= QUICK_ENDS:
            self.put("manager", {}, [])
        self.start_at = now + self.backoff

    def run(self, wakeup: int) -> int:
        """Keep until the stack ends; `wakeup` becomes readable with each signal. Returns the exit status."""
        while self.status is None:
            now = time.monotonic()
            if self.start_at is not None and now >= self.start_at:
                self.start_manager()
            wait = None if self.start_at is None else max(0.0, self.start_at - now)
            watched: list[int | socket.socket] = [wakeup] if self.channel is None else [wakeup, self.channel]
            readable = select.select(watched, [], [], wait)[0]
            if self.channel in readable:
                self.serve()
            if wakeup in readable and any(number in launch.ENDING for number in os.read(wakeup, 64)):
                self.status = self.status or 0
            self.reap()
        self.end()
        return self.status

    def end(self) -> None:
        """Kill every process of the stack, close everything, remove the directory."""
        if self.manager is not None:
            self.manager.kill()
        for data, descriptors in self.entries.values():
            if data.get("process") and descriptors:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptors[0], signal.SIGKILL)
        for key in list(self.entries):
            self.drop(key)
        self.forget_channel()
        deadline = time.monotonic() + LAST_WAIT
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0] or time.monotonic() < deadline:
                time.sleep(0.001)
        shutil.rmtree(self.directory, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """Run the stack of `arguments`: directory, settings, descriptor of the lock, descriptor of the report."""
    directory, settings, lock, report, *options = arguments
    launch.set_name("neat-keeper")
    launch.become_subreaper()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, DESCRIPTORS), max(hard, DESCRIPTORS)))
    woken, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    for number in (*launch.ENDING, signal.SIGCHLD):
        if signal.getsignal(number) != signal.SIG_IGN or number != signal.SIGHUP:  # as nohup has it
            signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, launch.ENDING)
    for descriptor in (int(lock), int(report)):
        os.set_inheritable(descriptor, False)
    if "--end-with-parent" in options:
        launch.die_with_parent()
    keeper = Keeper(directory)
    keeper.put("settings", {"settings": settings}, [])
    keeper.put("report", {}, [int(report)])
    return keeper.run(woken.fileno())
