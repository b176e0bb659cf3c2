"""A replica: the process that runs one share of the stack.

`main` is what the manager starts (launch.py). It isolates itself and waits, as a spare, until the manager hands it the
state region and the queue of a replica. From then on it is that replica, and loops without the GIL: receive, run to
completion, send, ring, sleep. Python is entered again only for a message of the manager.
"""

import json
import os
import sys

import cython
from cython.cimports.libc.errno import errno
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.batch import batch, deadline, idle, receive
from cython.cimports.neatstack.dataplane.channel.atomic import fence, store32
from cython.cimports.neatstack.dataplane.channel.rings import any_commands
from cython.cimports.neatstack.dataplane.driver.device import FRAMES, Inbox
from cython.cimports.neatstack.dataplane.driver.tap import tap_device, tap_probe
from cython.cimports.neatstack.dataplane.engine import Engine
from cython.cimports.neatstack.dataplane.journal import STRIKE_ABORT, STRIKE_HANG, STRIKE_KILL, STRIKE_SEGV
from cython.cimports.neatstack.dataplane.replica import (
    CLOCK_MONOTONIC,
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLLET,
    EPOLLIN,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SIG_IGN,
    SIGINT,
    Event,
    Loop,
    clock_gettime,
    epoll_create1,
    epoll_ctl,
    epoll_pwait2,
    send,
    signal,
    timespec,
)
from cython.cimports.neatstack.dataplane.socket.commands import BUDGET
from cython.cimports.neatstack.dataplane.stack import Drop, Stack

from neatstack.dataplane import control_messages
from neatstack.dataplane.engine import MANNERS
from neatstack.dataplane.flip import flip
from neatstack.dataplane.mapping import Mapping
from neatstack.dataplane.sandbox import enter_isolation, filter_calls, name_process
from neatstack.dataplane.version import VERSION, state

LISTEN_OPTIONS = (
    *("mss", "defer", "syn_retries", "fastopen", "congestion", "v6only", "save_syn", "least_ttl", "least_hops"),
)  # fmt: skip
OF_REPLICAS = frozenset((
    *("channel", "drop", "listen", "unlisten", "grant", "revoke", "bind", "release", "unbind", "join", "leave"),
    *("run", "settle", "fault", "capture", "uncapture", "hold", "let_go"),
))  # fmt: skip
DESCRIPTORS = ("control", "stack_page", "neighbours")
STRIKES = {
    "kill": int(STRIKE_KILL), "segv": int(STRIKE_SEGV), "abort": int(STRIKE_ABORT), "hang": int(STRIKE_HANG),
}  # fmt: skip
CONTROL_EVERY = cython.declare(uint32_t, 64)  # rounds without sleep after which control is looked at
SETTLE_TIME = cython.declare(uint64_t, 200000000)  # ns
SETTLE_FRAMES = cython.declare(uint32_t, 4096)  # more than the queue of a TAP holds (1000)
FINISH_ROUNDS = cython.declare(uint32_t, 256)
MILLISECOND = cython.declare(uint64_t, 1000000)  # ns
SECOND = cython.declare(uint64_t, 1000000000)  # ns


# ---- the loop ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def clock() -> uint64_t:
    """CLOCK_MONOTONIC, ns."""
    now: timespec
    clock_gettime(CLOCK_MONOTONIC, cython.address(now))
    return cython.cast(uint64_t, now.tv_sec) * SECOND + cython.cast(uint64_t, now.tv_nsec)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def work(loop: cython.pointer[Loop]) -> cython.int:
    """Run until there is something for Python to do (0): a message of the manager, or memory that nothing uses.

    -errno: the device has failed.
    """
    s: cython.pointer[Stack] = loop.s
    while True:
        s.now = clock()
        got: cython.int = receive(s, loop.limit if loop.frames or loop.faulty else 0)
        if got < 0:
            return got
        more: cython.bint = batch(s)
        if s.wanted_count:
            ask_link(loop)
        if s.unused:
            return 0
        if got:
            adapt(loop, got)
        loop.frames = True
        if got >= FRAMES or more:
            loop.busy += 1
            if loop.busy >= CONTROL_EVERY and wait(loop, s.now):
                return 0
        elif sleep(loop):  # if the queue was not empty after all, only for an instant
            return 0


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def adapt(loop: cython.pointer[Loop], got: cython.int) -> cython.void:
    """Take as many frames as came the last time: asking a queue that is empty costs as much as taking a frame."""
    if got >= loop.limit:
        loop.limit = 2 * loop.limit if 2 * loop.limit < FRAMES else FRAMES
    elif got:
        loop.limit = got


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def sleep(loop: cython.pointer[Loop]) -> cython.bint:
    """Wait for a frame, a doorbell, a timer or the manager; True if it is the manager.

    The order makes sure that nothing is slept through: we say that we sleep, and then look at the command rings once
    more; a program puts its command, and then looks whether we sleep. One of the two sees what the other did.
    """
    s: cython.pointer[Stack] = loop.s
    page_seq: cython.pointer[uint32_t] = cython.address(s.replica_page.sleep_seq)
    control: cython.bint = False
    store32(page_seq, s.replica_page.sleep_seq + 1)
    fence()
    if idle(s):
        s.counters.sleeps += 1
        began: uint64_t = clock()
        control = wait(loop, began + MILLISECOND if loop.faulty else deadline(s))
        s.replica_page.slept_ns += clock() - began
    store32(page_seq, s.replica_page.sleep_seq + 1)
    return control


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def wait(loop: cython.pointer[Loop], until: uint64_t) -> cython.bint:
    """Wait for any descriptor, at most until then (CLOCK_MONOTONIC in ns; 0: for ever); True if it is the manager's."""
    events: Event[4]
    left: timespec
    timeout: cython.pointer[timespec] = cython.NULL
    i: cython.int
    loop.busy = 0
    if until:
        now: uint64_t = clock()
        span: uint64_t = until - now if until > now else 0
        left.tv_sec = cython.cast(cython.long, span // SECOND)
        left.tv_nsec = cython.cast(cython.long, span % SECOND)
        timeout = cython.address(left)
    ready: cython.int = epoll_pwait2(loop.epoll, events, 4, timeout, cython.NULL)
    loop.frames = False
    control: cython.bint = False
    for i in range(ready):
        if events[i].data.fd == loop.control:
            control = True
        elif events[i].data.fd == loop.s.device.fd:
            loop.frames = True
    return control


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def ask_link(loop: cython.pointer[Loop]) -> cython.void:
    """Tell link which hardware addresses are wanted. What does not fit into its socket is asked for again in time."""
    s: cython.pointer[Stack] = loop.s
    i: uint32_t
    for i in range(s.wanted_count):
        send(loop.link, cython.address(s.wanted[i]), 16, MSG_DONTWAIT | MSG_NOSIGNAL)
    s.wanted_count = 0


# ---- when the manager asks ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def settle(loop: cython.pointer[Loop]) -> cython.int:
    """Take in every frame and every command that is waiting now, in ordinary batches.

    What comes meanwhile is taken too, but not waited for: it is enough to have found the queue empty, or to have taken
    as many frames as it can hold. 1: done; 0: it took too long; -errno: the device has failed.
    """
    s: cython.pointer[Stack] = loop.s
    until: uint64_t = clock() + SETTLE_TIME
    frames: uint32_t = 0
    rounds: uint32_t = 0
    all_frames: cython.bint = False
    all_commands: cython.bint = False
    while not (all_frames and all_commands):
        s.now = clock()
        if s.now >= until:
            return 0
        got: cython.int = receive(s, FRAMES)
        if got < 0:
            return got
        frames += s.region.inbox.count
        all_frames = all_frames or s.region.inbox.count == 0 or frames >= SETTLE_FRAMES
        batch(s)
        ask_link(loop)
        rounds += 1
        all_commands = all_commands or not any_commands(s) or rounds >= command_rounds(s)
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def command_rounds(s: cython.pointer[Stack]) -> uint32_t:
    """Batches after which every command that a ring can hold has been taken."""
    most: uint32_t = 0
    n: uint32_t
    for n in range(s.active_count):
        if s.channels[s.active[n]].header.entries > most:
            most = s.channels[s.active[n]].header.entries
    return (most + BUDGET - 1) // BUDGET


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def finish(loop: cython.pointer[Loop]) -> cython.void:
    """Before the end: run batches without frames, which the successor will take, until nothing is left to tell or send.

    A batch that programs keep busy is not waited for: what is left over is left as at any other death.
    """
    s: cython.pointer[Stack] = loop.s
    for _ in range(FINISH_ROUNDS):
        s.now = clock()
        receive(s, 0)
        if not batch(s):
            break
    ask_link(loop)


# ---- around it ----


@cython.final
@cython.cclass
class Replica:
    """The process: its engine, its loop, and what the manager can ask of it."""

    config: dict
    stack_page: object
    neighbours: object
    engine: Engine
    loop: Loop
    doorbell: cython.int
    doorbells: dict
    how: str
    began: uint64_t  # ns, when it was told to be a replica
    running: cython.bint

    def __cinit__(self, config: dict):
        """A spare, which waits for its work. OSError if what it was given cannot be used."""
        self.config = config
        self.stack_page = _mapped(config["stack_page"], False)
        self.neighbours = _mapped(config["neighbours"], False)
        self.doorbells = {}
        self.loop.control = config["control"]
        self.loop.epoll = epoll_create1(EPOLL_CLOEXEC)
        self._watch(config["control"], EPOLLIN)

    @cython.cfunc
    def _watch(self, fd: cython.int, events: uint32_t):
        event: Event
        event.events = events
        event.data.fd = fd
        if epoll_ctl(self.loop.epoll, EPOLL_CTL_ADD, fd, cython.address(event)) < 0:
            raise OSError(errno, f"cannot wait for descriptor {fd}: {os.strerror(errno)}")

    def run(self) -> None:
        """Loop until the manager says stop or the stack ends. OSError when the device fails."""
        result: cython.int
        going = True
        while going:
            with cython.nogil:
                if self.running:
                    result = work(cython.address(self.loop))
                else:
                    result = 0
                    wait(cython.address(self.loop), 0)
            if result < 0:
                raise OSError(-result, f"the device has failed: {os.strerror(-result)}")
            if self.running:
                self._say_freed(self.engine.reap())
            going = self._obey_all()

    def _say_freed(self, channels: list) -> None:
        """Tell the manager that nothing uses these channels of dead programs any more."""
        if channels:
            control_messages.answer(self.loop.control, {"freed": channels})

    def _obey_all(self) -> bool:
        """Do all that the manager has asked for by now; False: the last of it was to stop.

        The answers go when all is done: each wakes the manager, who may share our core.
        """
        going = True
        replies: list = []
        while going:
            request = control_messages.receive(self.loop.control)
            if request is None:
                break
            going = self._answer(replies, *request)
        for reply in replies:
            control_messages.answer(self.loop.control, reply)
        return going

    def _answer(self, replies: list, message: dict, fds: list) -> bool:
        """Do what a message asks for, and have it said; False: it was the last one."""
        reply = {"id": message.get("id")}
        try:
            reply.update(self._obey(message, fds) or {})
            reply["ok"] = True
        except (ArithmeticError, LookupError, MemoryError, OSError, TypeError, ValueError) as error:
            reply["error"] = str(error) or type(error).__name__
        finally:
            for fd in fds:
                os.close(fd)
        replies.append(reply)
        return message.get("op") != "stop"

    def _obey(self, message: dict, fds: list) -> dict | None:
        """One request; what its answer says beside `ok`. Descriptors that stay in use are taken out of `fds`."""
        engine = self.engine
        match message["op"]:
            case "page":
                return None  # the stack page is read where it is needed
            case "stop":
                return self._stop(bool(message.get("final")))
            case "adopt":
                return self._adopt(message, fds)
            case op if engine is None and op in OF_REPLICAS:
                raise ValueError("a spare has nothing to do it with")
            case "channel":
                self._open_channel(message, fds)
            case "drop":
                return self._drop(message["channel"])
            case "listen":
                options = {name: message.get(name, 0) for name in LISTEN_OPTIONS}
                options["fastopen_keys"] = bytes.fromhex(message.get("fastopen_keys", ""))
                engine.listen(message["listener"], message["address"], message["port"], message["backlog"], **options)
            case "unlisten":
                engine.unlisten(message["listener"])
            case "grant":
                engine.grant(message["listener"], message["channel"])
            case "revoke":
                engine.revoke(message["listener"], message["channel"])
            case "hold":
                engine.hold(message["channel"], message["socket"], message["holder"], message["other"])
            case "let_go":
                engine.let_go(message["channel"], message["socket"])
            case "capture":
                engine.add_capture(message["capture"], Mapping(fds[0]))
            case "uncapture":
                engine.drop_capture(message["capture"])
            case "bind":
                where = message["address"], message["port"], message["flags"], message["holders"]
                engine.bind(message["binding"], message["channel"], message["cookie"], *where)
            case "release":
                engine.release(message["binding"], message["channel"])
            case "unbind":
                engine.unbind(message["binding"])
            case "join":
                engine.join(message["group"])
            case "leave":
                engine.leave(message["group"])
            case "run":
                return self._run()
            case "settle":
                return self._settle()
            case "fault":
                return self._fault(message)
            case unknown:
                raise ValueError(f"unknown request {unknown!r}")
        return None

    # ---- from spare to replica ----

    def _adopt(self, message: dict, fds: list) -> None:
        """Be this replica from now on: map its memory, and take up its queue."""
        number, how = message["replica"], message["how"]
        if self.engine is not None:
            raise ValueError("it is a replica already")
        if how not in MANNERS:
            raise ValueError(f"cannot adopt in the way {how!r}")
        self.began = clock()
        region, tap, doorbell, page, link = fds
        self.how = how
        self.engine = Engine(
            replica=number,
            incarnation=message["incarnation"],
            max_tcbs=self.config["max_tcbs"],
            region=Mapping(region),
            keep=how != "fresh",
            stack_page=self.stack_page,
            replica_page=Mapping(page),
            neighbours=self.neighbours,
            device=None,
            secret=bytes.fromhex(message.get("secret", "")),
            fastopen_keys=bytes.fromhex(message.get("fastopen_keys", "")),
        )
        self._take_queue(tap)
        self.loop.link = link
        self.doorbell = doorbell
        for fd in (tap, doorbell, link):
            fds.remove(fd)
        name_process(f"neat-replica-{number}")

    def _take_queue(self, tap: int) -> None:
        s: cython.pointer[Stack] = self.engine.s
        fd: cython.int = tap
        faults = self.config.get("faults")
        malformed = cython.address(s.counters.drops[cython.cast(cython.int, Drop.DROP_OFFLOAD)])
        # what the fault injector lets through is not what the driver has read
        inbox: cython.pointer[Inbox] = cython.NULL if faults else cython.address(s.region.inbox)
        if tap_device(cython.address(s.device), fd, inbox, s.frames, malformed) < 0:
            raise MemoryError
        if faults:
            self.engine.add_faults(**faults)
            self.loop.faulty = True

    def _run(self) -> dict:
        """Everything is told: take over, and serve."""
        if self.running:
            raise ValueError("it runs already")
        s: cython.pointer[Stack] = self.engine.s
        now: uint64_t = clock()
        # the last incarnation may have died asleep: programs would take us for awake while we sleep
        s.replica_page.sleep_seq += s.replica_page.sleep_seq & 1
        s.replica_page.progress_ns = now
        self.engine.now = now
        self.loop.s = s
        self.loop.limit = FRAMES
        self.loop.frames = True
        if self.how != "fresh" and s.device.records:
            tap_probe(cython.address(s.region.inbox), s.frames)
        result = self.engine.adopt(self.how)
        self._watch(s.device.fd, EPOLLIN)
        self._watch(self.doorbell, EPOLLIN | EPOLLET)  # never read: each ring is an edge
        self.running = True
        with cython.nogil:  # serve first, answer then
            if receive(s, FRAMES) >= 0:
                batch(s)
        return {"adopted": result["kept"], "lost": result["lost"], "took_us": (clock() - self.began) // 1000}

    # ---- moves, and the end ----

    def _settle(self) -> dict:
        """Have all taken that is waiting now. `settled`: False when it took too long."""
        if not self.running:
            raise ValueError("it does not run yet")
        result: cython.int
        with cython.nogil:
            result = settle(cython.address(self.loop))
        if result < 0:
            raise OSError(-result, f"the device has failed: {os.strerror(-result)}")
        return {"settled": result > 0}

    def _stop(self, final: bool) -> None:
        """Leave everything told and sent to a successor; `final`: there is none, and programs shall wait for nobody."""
        if not self.running:
            return
        with cython.nogil:
            finish(cython.address(self.loop))
        if final:
            self.engine.s.replica_page.incarnation = 0

    # ---- programs ----

    def _open_channel(self, message: dict, fds: list) -> None:
        memory, doorbell = fds
        number = message["channel"]
        gone = bool(message.get("gone"))
        self.engine.add_channel(number, Mapping(memory), doorbell, message.get("inherit"), gone)
        if not gone:
            fds.remove(doorbell)
            self.doorbells[number] = doorbell

    def _drop(self, number: int) -> dict:
        in_use = self.engine.drop_channel(number)
        os.close(self.doorbells.pop(number))
        if not in_use:
            self._say_freed([other for other in self.engine.reap() if other != number])
        return {"in_use": in_use}

    # ---- faults on demand ----

    def _fault(self, message: dict) -> dict:
        """Strike when the next connection is in hand, or at a named point; or flip a bit at once."""
        if not self.config.get("allow_faults"):
            raise ValueError("this stack was not started with --allow-faults")
        kind = message["kind"]
        if kind == "flip":
            return {"what": flip(self.engine, message["seed"])}
        if kind not in STRIKES:
            raise ValueError(f"no such fault: {kind!r}")
        self.engine.arm(STRIKES[kind], message.get("point", "changed"), message.get("after", 0))
        return {}


def _mapped(fd: int, writable: bool = True) -> Mapping:
    """The memory behind a descriptor, which is not needed afterwards."""
    try:
        return Mapping(fd, writable)
    finally:
        os.close(fd)


def main(text: str) -> None:
    """Be a replica. Does not return; the exit status is 0 when told to stop or when the stack has ended."""
    config = json.loads(text)
    name_process("neat-spare")
    signal(SIGINT, SIG_IGN)  # Ctrl-C is for the keeper, which ends us in its own order
    try:
        if "uid" in config:
            enter_isolation(config["uid"], config["gid"], [config[name] for name in DESCRIPTORS])
        replica = Replica(config)
        if config.get("state", state()) != state():
            raise OSError(f"the files of neatstack have changed: version {VERSION} cannot take over this stack's state")
        if config["seccomp"]:
            filter_calls()
        control_messages.answer(config["control"], {"ready": True, "version": VERSION})
        replica.run()
    except control_messages.Closed:
        pass
    except Exception as error:  # a traceback would open files, which is not allowed any more
        sys.stderr.write(f"a replica: {error or type(error).__name__}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)
