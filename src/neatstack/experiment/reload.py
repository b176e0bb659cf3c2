"""nginx reloads its configuration again and again under load, on the stack and, to compare, on the kernel.

Each reload starts new workers, which inherit the listening socket by fork, and lets the old ones finish what they have
accepted. No request may fail, and what stack and server take up must not grow.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from neatstack.experiment.footprint import Footprint, Tolerance, measure
from neatstack.experiment.netns import Lab, LabError, Namespace, Side, Stack
from neatstack.experiment.stage import Control
from neatstack.experiment.web_load import Site, Tally, WebLoad

PORT = 7080
WORKERS = 2
FRESH, KEPT, SLOW = 6, 6, 2  # clients
FILES = {"small": 100, "page": 30_000, "large": 1_500_000}  # bytes
SERVING_LIMIT = 20.0  # seconds until new workers answer
SETTLE_LIMIT = 60.0  # seconds until old workers are gone, without load, also where each waits for its turn of a core
SETTLE_LOOK = 0.1
KILL_DELAY = 0.1  # seconds at most between the signal to reload and a replica's death
BY_COMMAND = 10  # each tenth reload is `nginx -s reload`; the others send its signal
STACK_OPTIONS = "max_connections = 1024\n"  # of one replica: connections in TIME_WAIT soon use the memory of older ones

CONFIG = """
daemon off; worker_processes {workers}; pid {place}/nginx.pid; error_log {place}/error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off; keepalive_requests 500;
    client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;
    server {{ listen {port} backlog=1024; root {place}/www; sendfile on; add_header X-Worker $pid; }}
}}
"""


@dataclass(frozen=True)
class Plan:
    """What is done."""

    reloads: int
    on_kernel: int  # reloads of the same server on the kernel's stack
    every: int = 100  # reloads between two measurements
    warm_up: int = 50  # reloads before the first
    seconds: float = 3600.0  # no more reloads after that
    kill_every: float | None = None  # seconds between two deaths of replicas
    seed: int = 1
    tolerance: Tolerance = Tolerance()

    def measures(self, done: int) -> bool:
        return done == min(self.warm_up, self.reloads) or done % self.every == 0 or done == self.reloads


@dataclass
class Course:
    """What has come of the reloads at one place."""

    reloads: int = 0
    kills: int = 0
    seconds: float = 0.0
    slowest_reload: float = 0.0  # seconds from the signal to a new worker's answer
    tally: Tally = field(default_factory=Tally)
    footprints: list[Footprint] = field(default_factory=list)


@dataclass
class Result:
    """The stack's course, the kernel's, and what is wrong with the former."""

    stack: Course
    kernel: Course
    grown: list[str]

    @property
    def good(self) -> bool:
        return not self.grown and not self.stack.tally.failed


Progress = Callable[[str, Course], None]


class Nginx:
    """A server with `WORKERS` workers; what it serves and how often it has been told to reload."""

    def __init__(self, lab: Lab, place: Side, client: Namespace) -> None:
        self.place, self.client = place, client
        self.directory = lab.directory / f"nginx-{place.label}"
        root = self.directory / "www"
        root.mkdir(parents=True)
        files = {name: hashlib.shake_128(name.encode()).digest(size) for name, size in FILES.items()}
        for name, data in files.items():
            (root / name).write_bytes(data)
        self.config = self.directory / "nginx.conf"
        self.config.write_text(CONFIG.format(workers=WORKERS, place=self.directory, port=PORT))
        self.site = Site(place.address, PORT, files)
        self.master = place.spawn("nginx", "-p", self.directory, "-c", self.config)
        client.wait_port(place.address, PORT, process=self.master)

    def workers(self) -> set[int]:
        """Old ones that have not ended are among them."""
        try:
            return set(map(int, Path(f"/proc/{self.master.pid}/task/{self.master.pid}/children").read_text().split()))
        except FileNotFoundError:
            raise LabError(f"nginx has ended: {self.master.output}{self.errors()}") from None

    def errors(self) -> str:
        return (self.directory / "error.log").read_text(errors="replace")

    def tell(self, by_command: bool) -> None:
        if by_command:
            self.place.run("nginx", "-p", self.directory, "-c", self.config, "-s", "reload")
        else:
            os.kill(self.master.pid, signal.SIGHUP)


class Reloading:
    """Reload after reload of one server under one load."""

    def __init__(self, plan: Plan, nginx: Nginx, load: WebLoad, progress: Callable[[Course], None]) -> None:
        self.plan, self.nginx, self.load, self.progress = plan, nginx, load, progress
        self.course = Course()
        self.began = time.monotonic()

    def run(self, reloads: int, meanwhile: Callable[[], None], after: Callable[[int], None]) -> Course:
        """`meanwhile` is called while workers change, `after` with the number done."""
        self.wait_worker(set())  # nginx listens before it catches signals: until then, SIGHUP would end it
        while self.course.reloads < reloads and time.monotonic() - self.began < self.plan.seconds:
            self.reload(by_command=self.course.reloads % BY_COMMAND == BY_COMMAND - 1, meanwhile=meanwhile)
            self.course.reloads += 1
            after(self.course.reloads)
            self.course.tally = self.load.tally()
            self.progress(self.course)
        self.course.seconds = time.monotonic() - self.began
        return self.course

    def reload(self, by_command: bool, meanwhile: Callable[[], None]) -> None:
        before, told = self.nginx.workers(), time.monotonic()
        self.nginx.tell(by_command)
        meanwhile()
        self.wait_worker(before)
        self.course.slowest_reload = max(self.course.slowest_reload, time.monotonic() - told)

    def wait_worker(self, before: set[int]) -> None:
        """Until one serves that is none of `before`. Raises LabError."""
        end = time.monotonic() + SERVING_LIMIT
        while not self.load.workers() & (self.nginx.workers() - before):
            if time.monotonic() > end:
                raise LabError(f"no new worker serves within {SERVING_LIMIT:g} s; {self.nginx.errors()}")
            time.sleep(0.005)


class OnStack:
    """What is done to the stack, and measured of it, between reloads."""

    def __init__(self, plan: Plan, stack: Stack, control: Control, nginx: Nginx, load: WebLoad) -> None:
        self.plan, self.stack, self.control, self.nginx, self.load = plan, stack, control, nginx, load
        self.random = random.Random(plan.seed)
        self.next_kill = time.monotonic() + (plan.kill_every or 0)
        self.kills = 0
        self.footprints: list[Footprint] = []

    def kill(self) -> None:
        """A replica, when it is time for that."""
        if self.plan.kill_every is None or time.monotonic() < self.next_kill:
            return
        self.next_kill = time.monotonic() + self.plan.kill_every
        time.sleep(self.random.uniform(0, KILL_DELAY))
        self.control.inject(self.random.choice(self.control.status()["replicas"])["id"], "kill", 0)
        self.kills += 1

    def measure(self, done: int) -> None:
        """With no request under way: what is there then should not be more from time to time."""
        if not self.plan.measures(done):
            return
        if not self.load.pause():
            raise LabError("requests are not answered, and do not fail either")
        found, end = self.look(), time.monotonic() + SETTLE_LIMIT
        while time.monotonic() < end:
            time.sleep(SETTLE_LOOK)
            before, found = found, self.look()
            at_rest = len(self.nginx.workers()) == WORKERS and found.programs == 1 + WORKERS
            if at_rest and found.held == before.held:
                break
        found.reloads = done
        self.footprints.append(found)
        self.load.resume()

    def look(self) -> Footprint:
        return measure(self.stack, self.control, self.nginx.master.pid, self.nginx.workers())


def experiment(lab: Lab, plan: Plan, progress: Progress) -> Result:
    """Everything, first on the kernel. Raises LabError when something does not even start."""
    with lab.scope():
        kernel = on_kernel(lab, plan, lambda course: progress("kernel", course))
    with lab.scope():
        stack = on_stack(lab, plan, lambda course: progress("stack", course))
    footprints = stack.footprints
    grown = plan.tolerance.grown(footprints[0], footprints[-1]) if footprints else []
    return Result(stack, kernel, grown)


@contextmanager
def under_load(nginx: Nginx, progress: Callable[[Course], None], plan: Plan) -> Iterator[Reloading]:
    with WebLoad(nginx.client, nginx.site, FRESH, KEPT, SLOW) as load:
        yield Reloading(plan, nginx, load, progress)


def on_kernel(lab: Lab, plan: Plan, progress: Callable[[Course], None]) -> Course:
    server, client = lab.namespace("server"), lab.namespace("client")
    lab.veth(server, "10.78.0.2/24", client, "10.78.0.1/24")
    nginx = Nginx(lab, server, client)
    with under_load(nginx, progress, plan) as reloading:
        course = reloading.run(plan.on_kernel, lambda: None, lambda done: None)
    course.tally = reloading.load.tally()
    return course


def on_stack(lab: Lab, plan: Plan, progress: Callable[[Course], None]) -> Course:
    stack = lab.stack(replicas=2, config=STACK_OPTIONS)
    control = Control(stack.run_dir / stack.name / "control.sock")
    lab.cleanup.callback(control.close)
    nginx = Nginx(lab, stack.programs, stack.host)
    with under_load(nginx, progress, plan) as reloading:
        side = OnStack(plan, stack, control, nginx, reloading.load)
        course = reloading.run(plan.reloads, side.kill, side.measure)
    course.tally = reloading.load.tally()
    course.kills, course.footprints = side.kills, side.footprints
    return course
