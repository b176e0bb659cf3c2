"""A stack with something to do, for the dashboard's test and its screenshots."""

from __future__ import annotations

from collections.abc import Sequence

from neatstack.experiment.netns import Lab, Stack

PORT = 80
LIGHTTPD = """
server.port = {port}
server.bind = "0.0.0.0"
server.document-root = "{root}"
server.max-keep-alive-requests = 65535
server.listen-backlog = 1024
"""
VISITOR = "while sleep 0.1; do curl -s -o /dev/null {url}; done"


def busy_stack(lab: Lab, replicas: int, seconds: int, options: Sequence[object] = ()) -> Stack:
    """A web server on a stack, its clients at work: with connections that last, and one with a new one each time.

    They end after so many seconds, if the lab does not end before.
    """
    stack = lab.stack(replicas=replicas, options=options)
    root, configuration = lab.directory / "www", lab.directory / "lighttpd.conf"
    root.mkdir()
    (root / "index.html").write_text("A page of the size that pages have. " * 24)
    configuration.write_text(LIGHTTPD.format(port=PORT, root=root))
    server = stack.programs.spawn("lighttpd", "-D", "-f", configuration)
    stack.host.wait_port(stack.address, PORT, process=server)
    url = f"http://{stack.address}:{PORT}/index.html"
    stack.host.spawn("wrk", "-t1", "-c32", f"-d{seconds}s", url)
    stack.host.spawn("timeout", seconds, "sh", "-c", VISITOR.format(url=url))
    return stack
