"""layout.h as ctypes structures, read from the header itself so that the two cannot drift apart.

`neat.OP_LOOK` is NEAT_OP_LOOK; `Socket`, `ChannelHeader`... are the structures. What this reader understands of C is
what the header uses; tests/source/test_layout.py asks the C compiler whether it understood it right.
"""

import ctypes
import re
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

HEADER = Path(__file__).parents[2] / "src/neatstack/dataplane/channel/layout.h"
SCALARS = {
    "uint8_t": ctypes.c_uint8,
    "uint16_t": ctypes.c_uint16,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
}


class Comparable(ctypes.Structure):
    """Equal to another with the same bytes."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and bytes(self) == bytes(other)

    def __hash__(self) -> int:
        return hash(bytes(self))


def read_constants(text: str) -> dict[str, int]:
    """Every #define and enumerator that is a plain number."""
    found = {name: int(value.rstrip("u"), 0) for name, value in re.findall(r"#define (NEAT_\w+) (\w+)", text)}
    for body in re.findall(r"enum \w+ \{(.*?)\}", text, re.DOTALL):
        found |= {name: int(value, 0) for name, value in re.findall(r"(NEAT_\w+) = (\w+)", body)}
    return found


def read_structures(text: str, constants: dict[str, int]) -> dict[str, type[ctypes.Structure]]:
    """Every `struct neat_...`, in order, as the C compiler lays it out."""
    known: dict[str, type] = dict(SCALARS)
    for name, body in re.findall(r"struct (neat_\w+) \{(.*?)\n\};", text, re.DOTALL):
        fields = []
        for kind, declarators in re.findall(r"(?:struct )?(\w+) ([^;]+);", body):
            for field, length in re.findall(r"(\w+)(?:\[(\w+)\])?", declarators):
                count = constants[length] if length in constants else int(length or 0)
                fields.append((field, known[kind] * count if count else known[kind]))
        known[name] = type(name, (Comparable,), {"_fields_": fields})
    return {name: kind for name, kind in known.items() if name not in SCALARS}


def without_comments(path: Path) -> str:
    return re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)


_ADDRESS = re.search(r"struct neat_address \{.*?\n\};", without_comments(HEADER.with_name("address.h")), re.DOTALL)
assert _ADDRESS
_TEXT = _ADDRESS[0] + without_comments(HEADER)
CONSTANTS = read_constants(_TEXT)
STRUCTURES = read_structures(_TEXT, CONSTANTS)

neat = SimpleNamespace(**{name.removeprefix("NEAT_"): value for name, value in CONSTANTS.items()})

Address = STRUCTURES["neat_address"]


def address(text: str) -> ctypes.Structure:
    """struct neat_address of an address as people write it."""
    parsed = ip_address(text)
    return Address.from_buffer_copy(parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed)


StackPage = STRUCTURES["neat_stack_page"]
ReplicaPage = STRUCTURES["neat_replica_page"]
ChannelHeader = STRUCTURES["neat_channel_header"]
ChannelProgram = STRUCTURES["neat_channel_program"]
ChannelReplica = STRUCTURES["neat_channel_replica"]
Entry = STRUCTURES["neat_entry"]
Socket = STRUCTURES["neat_socket"]
TcpInfo = STRUCTURES["neat_tcp_info"]
Aside = STRUCTURES["neat_aside"]
Datagram = STRUCTURES["neat_datagram"]
