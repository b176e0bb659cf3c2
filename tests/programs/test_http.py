"""HTTP servers and clients, unmodified: lighttpd, nginx, http.server; curl and wrk."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from neatstack.experiment.netns import Lab, Stack
from tests.conftest import Pair, also_over_ipv6, bracketed

SIZES = {"empty": 0, "small": 20, "page": 100_000, "large": 20_000_000}

LIGHTTPD = """
server.port = {port}
server.bind = "{address}"
server.set-v6only = "{only}"
server.document-root = "{root}"
server.max-keep-alive-requests = 65535
"""

NGINX = """
daemon off; worker_processes 2; pid {place}/nginx.pid; error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    log_format worker "$pid"; access_log {place}/access.log worker;
    client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;
    server {{ listen {address}:{port} backlog=1024{only}; root {root}; sendfile on; }}
}}
"""


@pytest.fixture(scope="module")
def root(lab: Lab) -> Path:
    """A directory of files to serve, readable by servers that have given up root."""
    made = lab.directory / "www"
    made.mkdir()
    for name, size in SIZES.items():
        (made / name).write_bytes(hashlib.shake_128(name.encode()).digest(size))
    return made


@pytest.fixture(params=["lighttpd", "nginx", "http.server"])
def server(request: pytest.FixtureRequest, pair: Pair, root: Path, tmp_path: Path) -> Pair:
    serve(request.param, pair, root, tmp_path)
    return pair


def serve(name: str, pair: Pair, root: Path, place: Path, dual: bool = False) -> None:
    """Start a server of the pair's family, or of both."""
    config = place / "server.conf"
    common = {"address": bracketed(pair.any), "port": pair.port, "root": root}
    if name == "http.server":
        bind = ["--bind", "::"] if ":" in pair.any else []  # of both families, whatever is wanted
        pair.serve("python3", "-m", name, pair.port, *bind, "--directory", root)
    elif name == "lighttpd":
        config.write_text(LIGHTTPD.format(only="disable" if dual else "enable", **common))
        pair.serve(name, "-D", "-f", config)
    else:
        config.write_text(NGINX.format(only=" ipv6only=off" if dual else "", place=place, **common))
        pair.serve(name, "-p", place, "-c", config)


@also_over_ipv6("stack-kernel", "stack-stack")
def test_curl(server: Pair, root: Path, tmp_path: Path) -> None:
    """Every file over one connection, contents checked."""
    wanted = [part for name in SIZES for part in ("-o", tmp_path / name, f"{server.url}/{name}")]
    server.client.run("curl", "-sS", "-m", 20, *wanted)
    for name in SIZES:
        assert (tmp_path / name).read_bytes() == (root / name).read_bytes(), name


@also_over_ipv6("kernel-stack")
def test_curl_parallel(server: Pair) -> None:
    told = server.client.run(
        "curl", "-sS", "-m", 20, "-Z", "--parallel-max", 20, "-w", "%{http_code} %{size_download}\n",
        *(part for _ in range(40) for part in ("-o", "/dev/null", f"{server.url}/page")),
    )  # fmt: skip
    assert told.split("\n")[:-1] == [f"200 {SIZES['page']}"] * 40


def test_not_found_and_head(server: Pair) -> None:
    curl = ["curl", "-sS", "-m", 10, "-o", "/dev/null", "-w", "%{http_code}"]
    assert server.client.run(*curl, f"{server.url}/absent") == "404"
    assert server.client.run(*curl, "-I", f"{server.url}/page") == "200"


@pytest.mark.parametrize("headers", [[], ["-H", "Connection: close"]], ids=["keep-alive", "close"])
def test_wrk(server: Pair, headers: list[str]) -> None:
    told = server.client.run("wrk", "-t1", "-c16", "-d1s", *headers, f"{server.url}/small")
    counted = re.search(r"(\d+) requests in", told)
    assert counted and int(counted[1]) > 20, told
    assert "Socket errors" not in told and "Non-2xx" not in told, told


def test_both_nginx_workers_serve(pair: Pair, root: Path, tmp_path: Path) -> None:
    serve("nginx", pair, root, tmp_path)
    pair.client.run("wrk", "-t1", "-c16", "-d1s", "-H", "Connection: close", f"{pair.url}/small")
    assert len(set((tmp_path / "access.log").read_text().split())) == 2


@pytest.mark.parametrize("name", ["lighttpd", "nginx", "http.server"])
@pytest.mark.parametrize("pair", ["stack-kernel over IPv6", "stack-stack over IPv6"], indirect=True)
def test_a_server_of_both_families(pair: Pair, name: str, root: Path, tmp_path: Path) -> None:
    serve(name, pair, root, tmp_path, dual=True)
    addresses = Stack.address, Stack.address6
    told = pair.client.run(
        "curl", "-sS", "-m", 10, "-w", "%{remote_ip} %{size_download}\n",
        *(part for to in addresses for part in ("-o", "/dev/null", f"http://{bracketed(to)}:{pair.port}/page")),
    )  # fmt: skip
    assert told.splitlines() == [f"{address} {SIZES['page']}" for address in addresses]
