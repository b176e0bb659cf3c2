"""A QUIC echo server and its client, with aioquic (RFC 9000 over our UDP).

quic.py server ADDRESS PORT DIRECTORY    makes its certificate in DIRECTORY
quic.py client ADDRESS PORT BYTES        sends so many on each of three streams; prints how many came back right
"""

import asyncio
import datetime
import random
import socket
import ssl
import sys
from pathlib import Path

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import HandshakeCompleted, QuicEvent, StreamDataReceived
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ALPN = ["echo"]


def certificate(directory: Path) -> tuple[Path, Path]:
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stack")]),
    )
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    pem, private = directory / "cert.pem", directory / "key.pem"
    pem.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(*encoding))
    return pem, private


class Echo(QuicConnectionProtocol):
    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            self._quic.send_stream_data(event.stream_id, event.data, event.end_stream)
            self.transmit()


class Client(QuicConnectionProtocol):
    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.ready = asyncio.get_running_loop().create_future()
        self.got: dict[int, bytearray] = {}
        self.done: dict[int, asyncio.Future[None]] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, HandshakeCompleted) and not self.ready.done():
            self.ready.set_result(None)
        if isinstance(event, StreamDataReceived):
            self.got[event.stream_id] += event.data
            if event.end_stream:
                self.done[event.stream_id].set_result(None)


async def server(address: str, port: int, directory: str) -> None:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=ALPN)
    configuration.load_cert_chain(*certificate(Path(directory)))
    await serve(address, port, configuration=configuration, create_protocol=Echo)
    await asyncio.Event().wait()


async def client(address: str, port: int, length: int) -> None:
    configuration = QuicConfiguration(is_client=True, alpn_protocols=ALPN, verify_mode=ssl.CERT_NONE)
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_datagram_endpoint(
        lambda: Client(QuicConnection(configuration=configuration)),
        local_addr=("::" if ":" in address else "0.0.0.0", 0),
    )
    _, _, _, _, where = (await loop.getaddrinfo(address, port, type=socket.SOCK_DGRAM))[0]
    protocol.connect(where)
    await asyncio.wait_for(protocol.ready, 10)
    sent = {}
    for number in range(3):
        stream = protocol._quic.get_next_available_stream_id()
        protocol.got[stream], protocol.done[stream] = bytearray(), loop.create_future()
        sent[stream] = random.Random(number).randbytes(length)
        protocol._quic.send_stream_data(stream, sent[stream], True)
    protocol.transmit()
    await asyncio.wait_for(asyncio.gather(*protocol.done.values()), 20)
    print(sum(protocol.got[stream] == data for stream, data in sent.items()))
    protocol.close()
    await protocol.wait_closed()


if __name__ == "__main__":
    what, address, port, more = sys.argv[1:]
    if what == "server":
        asyncio.run(server(address, int(port), more))
    else:
        asyncio.run(client(address, int(port), int(more)))
