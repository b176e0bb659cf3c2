"""Both ends of a connection in the hands of the test: one on the stack, one on the kernel, or both on the stack."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.conftest import Pair
from tests.support.puppet import Puppet, Remote


@dataclass
class Ends:
    """A process that serves and one that connects."""

    server: Puppet
    client: Puppet
    address: str
    port: int

    def listen(self, backlog: int = 128) -> Remote:
        return self.server.listen("0.0.0.0", self.port, backlog)

    def connected(self) -> tuple[Remote, Remote]:
        """A connection: the accepted end, and the connecting one."""
        listener = self.listen()
        client = self.client.connect(self.address, self.port)
        server = listener.accept()
        listener.close()
        return server, client


@pytest.fixture
def ends(pair: Pair) -> Ends:
    return Ends(Puppet(pair.server), Puppet(pair.client), pair.address, pair.port)
