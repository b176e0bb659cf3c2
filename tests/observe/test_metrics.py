"""The page for Prometheus: names, values, and a page in any case."""

import asyncio
import gzip
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from neatstack.control.errors import NeatError
from neatstack.observe import endpoint
from neatstack.observe.client import Event
from neatstack.observe.endpoint import Listen, serving
from neatstack.observe.metrics import GAPS, ROWS, Gaps, Sight, StackCollector
from neatstack.observe.rates import Meter
from tests.observe.fake import EVENT, LAST, Stack, replica, stack, status

DOCS = Path(__file__).parents[2] / "docs/operating.md"
Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(autouse=True)
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEAT_RUN_DIR", str(tmp_path))


def values(page: str, read: Callable[[str], Any] = parse) -> Values:
    found: Values = {}
    for family in read(page):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, key
            found[key] = sample.value
    return found


def value(found: Values, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def registry(sight: Sight) -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(StackCollector(lambda: sight))
    return made


def seen(answer: dict[str, Any], *events: dict[str, Any]) -> Sight:
    gaps = Gaps()
    gaps.take(map(Event.parse, events))
    return Sight("web", True, Meter().take(answer), 0.0, gaps)


def everything() -> Sight:
    several = [replica(0, recoveries=1, incarnation=2, last_recovery=LAST), replica(1)]
    return seen(status(several), EVENT, {**EVENT, "gap_ms": 12_000.0}, {**EVENT, "kind": "scale_up", "gap_ms": None})


def test_values() -> None:
    found = values(generate_latest(registry(everything())).decode())
    identity = {"stack": "web", "address": "10.77.0.2/24", "device": "neat0", "version": "0.1.0"}
    assert value(found, "neat_up") == value(found, "neat_info", **identity) == 1
    assert value(found, "neat_answer_age_seconds") == 0
    assert value(found, "neat_device_queue_drops_total") == 4
    assert value(found, "neat_replica_requests_total", replica="1") == 40
    assert value(found, "neat_replica_asleep_seconds_total", replica="0") == 10
    assert value(found, "neat_replica_drops_total", replica="0", reason="no_port") == 2
    assert value(found, "neat_replica_drops_total", replica="0", reason="sequence") == 0
    assert value(found, "neat_replica_state", replica="0", state="running") == 1
    assert value(found, "neat_replica_state", replica="0", state="draining") == 0
    assert value(found, "neat_replica_buckets", replica="0") == 128
    assert value(found, "neat_replica_pins", replica="1") == 3
    assert value(found, "neat_replica_last_recovery_gap_seconds", replica="0") == 0.0035
    assert value(found, "neat_replica_last_recovery_gap_seconds", replica="1") is None
    assert value(found, "neat_replica_last_recovery_connections", replica="0", outcome="adopted") == 5
    assert value(found, "neat_process_cpu_seconds_total", process="manager") == 0.5
    assert value(found, "neat_events_total", kind="crash") == 2
    assert value(found, "neat_recovery_gap_seconds_bucket", kind="crash", le="0.002") == 0
    assert value(found, "neat_recovery_gap_seconds_bucket", kind="crash", le="0.005") == 1
    assert value(found, "neat_recovery_gap_seconds_bucket", kind="crash", le="+Inf") == 2
    assert value(found, "neat_recovery_gap_seconds_count", kind="crash") == 2
    assert value(found, "neat_recovery_gap_seconds_sum", kind="crash") == 12.0035
    assert value(found, "neat_recovery_gap_seconds_count", kind="scale_up") is None


def test_openmetrics_too() -> None:
    found = values(generate_openmetrics(registry(everything())).decode(), parse_openmetrics)
    assert value(found, "neat_replica_requests_total", replica="1") == 40


def test_every_metric_of_the_table_is_exported_and_named_well() -> None:
    found = values(generate_latest(registry(everything())).decode())
    assert {name for name, _ in found} == {name for row in ROWS for name in row.samples}
    labels = {name: {label for label, _ in key} for name, key in found}
    for row in ROWS:
        assert re.fullmatch(r"neat(_[a-z]+)*", row.name) and not row.name.endswith("_total")
        for name in row.samples:
            assert labels[name] - {"le"} == set(row.labels), row
        assert row.help.endswith(".")
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert list(GAPS) == sorted(GAPS)


def test_what_an_older_stack_does_not_tell_is_left_out() -> None:
    older = {"name": "web", "address": "10.77.0.2/24", "replicas": [{"id": 0, "pid": 7, "counters": {"packets_in": 5}}]}
    found = values(generate_latest(registry(seen(older))).decode())
    assert value(found, "neat_replica_receive_packets_total", replica="0") == 5
    for name in ("neat_replica_requests_total", "neat_replica_asleep_seconds_total"):
        assert value(found, name, replica="0") is None
    assert value(found, "neat_uptime_seconds") is None
    found = values(generate_latest(registry(Sight("web", False))).decode())
    assert found == {("neat_up", frozenset()): 0}


def test_docs_have_every_metric() -> None:
    documented = re.findall(r"^\| `(neat_\w+|neat)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", DOCS.read_text(), re.MULTILINE)
    assert documented == [
        (row.shown, row.kind, ", ".join(f"`{label}`" for label in row.labels), row.help.removesuffix("."))
        for row in ROWS
    ]


class TestGrafana:
    dashboard = json.loads((files("neatstack.observe") / "grafana.json").read_text())

    def expressions(self) -> list[str]:
        targets = [target["expr"] for panel in self.dashboard["panels"] for target in panel.get("targets", [])]
        variables = [each["definition"] for each in self.dashboard["templating"]["list"] if "definition" in each]
        return targets + variables + [each["expr"] for each in self.dashboard["annotations"]["list"]]

    def test_queries_name_what_is_exported(self) -> None:
        exported = {name for row in ROWS for name in row.samples}
        used = {name for expression in self.expressions() for name in re.findall(r"\bneat\w*", expression)}
        assert used <= exported
        assert len(used) > 25

    def test_counters_are_rates_and_labels_exist(self) -> None:
        labels = {name: {*row.labels, "instance", "le"} for row in ROWS for name in row.samples}
        counters = {name for row in ROWS if row.kind == "counter" for name in row.samples}
        for expression in self.expressions():
            used = re.findall(r"\bneat\w*", expression)
            for name in used:
                if name in counters - {"neat_wrong_replica_packets_total"}:
                    assert re.search(rf"(rate|increase)\({name}", expression), expression
            for group in re.findall(r"by \(([^)]*)\)", expression):
                assert all(label.strip() in labels[name] for label in group.split(",") for name in used), expression
            assert expression.count("(") == expression.count(")")

    def test_panels_do_not_overlap(self) -> None:
        taken: set[tuple[int, int]] = set()
        for panel in self.dashboard["panels"]:
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
            taken |= cells
        assert len({panel["id"] for panel in self.dashboard["panels"]}) == len(self.dashboard["panels"])


@pytest.mark.parametrize(("text", "shown"), [
    ("127.0.0.1:9177", "127.0.0.1:9177"), ("[::1]:80", "[::1]:80"), ("localhost:1", "127.0.0.1:1"),
    ("0.0.0.0:0", "0.0.0.0:0"),
])  # fmt: skip
def test_addresses(text: str, shown: str) -> None:
    assert str(Listen.parse(text)) == shown


@pytest.mark.parametrize("text", ["", "9177", ":9177", "::1:9177", "1.2.3:80", "127.0.0.1:65536", "127.0.0.1:-1",
                                  "127.0.0.1:http", "example.org:80", "[127.0.0.1", "127.0.0.1:²"])  # fmt: skip
def test_bad_addresses(text: str) -> None:
    with pytest.raises(NeatError, match="listen: .* 127.0.0.1:9177") as raised:
        Listen.parse(text)
    assert raised.value.status == 2 and "\n" not in str(raised.value)


def get(place: Listen, path: str = "/metrics", **headers: str) -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection(str(place.address), place.port, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers["Content-Type"]
    finally:
        connection.close()


Scene = Callable[[Stack, Callable[..., Awaitable[tuple[int, bytes, str]]]], Awaitable[None]]


def play(scene: Scene) -> None:
    """With a stack and its endpoint; `ask` is a GET that leaves the loop running."""

    async def run() -> None:
        async with asyncio.timeout(30), stack() as web:
            with serving("web", Listen.parse("127.0.0.1:0"), asyncio.get_running_loop()) as place:
                await scene(web, lambda *a, **k: asyncio.to_thread(get, place, *a, **k))

    asyncio.run(run())


def test_endpoint() -> None:
    async def scene(web: Stack, ask: Any) -> None:
        code, body, kind = await ask()
        assert code == 200 and kind.startswith("text/plain")
        assert value(values(body.decode()), "neat_up") == 1
        code, body, kind = await ask(Accept="application/openmetrics-text; version=1.0.0")
        assert code == 200 and body.endswith(b"# EOF\n") and kind.startswith("application/openmetrics-text")
        code, body, _ = await ask(**{"Accept-Encoding": "gzip"})
        assert b"neat_up 1.0" in gzip.decompress(body)
        code, body, kind = await ask("/")
        assert code == 200 and b'href="/metrics"' in body and kind.startswith("text/html")
        assert (await ask("/other"))[0] == 404
        assert {request["op"] for request in web.asked} == {"status", "events"}

    play(scene)


def test_a_manager_away_for_a_moment_is_waited_for() -> None:
    async def scene(web: Stack, ask: Any) -> None:
        await web.stop()
        asking = asyncio.ensure_future(ask())
        await asyncio.sleep(0.3)
        await web.start()
        _, body, _ = await asking
        assert value(values(body.decode()), "neat_up") == 1

    play(scene)


@pytest.mark.parametrize("how", ["gone", "deaf", "nonsense"])
def test_no_answer_is_a_page(how: str) -> None:
    async def scene(web: Stack, ask: Any) -> None:
        await ask()
        if how == "gone":
            await web.stop()
        web.deaf, web.raw = how == "deaf", b"nonsense\n" if how == "nonsense" else None
        started = time.monotonic()
        code, body, _ = await ask()
        assert time.monotonic() - started < 1.2
        found = values(body.decode())
        assert code == 200 and value(found, "neat_up") == 0
        assert (value(found, "neat_answer_age_seconds") or 0) > 0.5
        assert value(found, "neat_replica_requests_total", replica="0") == 40  # what was known

    play(scene)


def test_the_stack_has_ended() -> None:
    async def scene(web: Stack, ask: Any) -> None:
        await ask()
        await web.end()
        started = time.monotonic()
        code, body, _ = await ask()
        assert code == 200 and values(body.decode()) == {("neat_up", frozenset()): 0}
        assert time.monotonic() - started < 0.5

    play(scene)


def test_many_at_once_while_the_manager_comes_and_goes() -> None:
    async def scene(web: Stack, ask: Any) -> None:
        async def trouble() -> None:
            for _ in range(8):
                await web.stop()
                await asyncio.sleep(0.03)
                await web.start()
                await asyncio.sleep(0.05)

        web.events = [EVENT]
        troubled = asyncio.ensure_future(trouble())
        answers = await asyncio.gather(*(ask() for _ in range(200)))
        await troubled
        assert all(code == 200 for code, _, _ in answers)
        for _, body, _ in answers:
            found = values(body.decode())
            assert value(found, "neat_events_total", kind="crash") in (None, 1)

    play(scene)


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = Listen.parse(f"127.0.0.1:{other.getsockname()[1]}")

        async def run() -> None:
            with serving("web", place, asyncio.get_running_loop()):
                pass

        with pytest.raises(NeatError, match="cannot listen on .*: Address already in use; .*--listen"):
            asyncio.run(run())


def test_once() -> None:
    started, loop = threading.Event(), asyncio.new_event_loop()
    over = asyncio.Event()

    async def run() -> None:
        async with stack():
            started.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        started.wait(5)
        text, problem = endpoint.page("web")
        assert problem is None and value(values(text), "neat_up") == 1
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()
    text, problem = endpoint.page("web")
    assert problem == "stack web has ended" and value(values(text), "neat_up") == 0
