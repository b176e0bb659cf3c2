"""Where the dashboard listens."""

import ipaddress
import socket
from dataclasses import dataclass

from neatstack.control.errors import NeatError

MOST_PORT = 65535
BACKLOG = 128
STALLED = 20_000  # ms until the kernel gives up a connection whose other end takes nothing
UNREAD = 1 << 17  # bytes that a connection may keep in the kernel
USAGE = 2  # exit status


@dataclass(frozen=True)
class Address:
    """An address to listen on."""

    ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """ADDRESS:PORT, with an IPv6 address in brackets. Raises NeatError."""
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        try:
            ip = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host[1:-1] if bracketed else host)
            number = int(port) if port.isascii() and port.isdecimal() else -1
            if not colon or (ip.version == 6) != bracketed or not 0 <= number <= MOST_PORT:
                raise ValueError
        except ValueError:
            remedy = "give --listen ADDRESS:PORT, such as 127.0.0.1:8077 or [::1]:8077"
            raise NeatError(f"cannot listen on {text!r}; {remedy}", USAGE) from None
        return cls(ip, number)

    @property
    def is_local(self) -> bool:
        """Can only this host reach it?"""
        return self.ip.is_loopback

    def open(self) -> socket.socket:
        """The listening socket. Raises NeatError."""
        family = socket.AF_INET if self.ip.version == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED)  # connections inherit these
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD)
            sock.bind((str(self.ip), self.port))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            remedy = "choose another --listen ADDRESS:PORT"
            raise NeatError(f"cannot listen on {self.netloc(self.port)}: {error.strerror}; {remedy}") from None
        return sock

    def netloc(self, port: int) -> str:
        """As in a URL."""
        host = f"[{self.ip}]" if self.ip.version == 6 else str(self.ip)
        return f"{host}:{port}"

    def url(self, port: int) -> str:
        """What a browser is to open."""
        return f"http://{f'{socket.gethostname()}:{port}' if self.ip.is_unspecified else self.netloc(port)}/"
