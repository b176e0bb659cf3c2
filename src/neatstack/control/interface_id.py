"""Interface identifiers that stay the same in a network and tell nothing in another (RFC 7217)."""

import hashlib
import hmac
import secrets
from pathlib import Path

MACHINE = Path("/etc/machine-id")
RESERVED = (bytes(8), bytes.fromhex("02005efffe000000"))  # RFC 5453: the routers' anycast, IANA's Ethernet block
LAST_RESERVED = bytes.fromhex("fdffffffffffff80")  # from here on: RFC 2526


def stable_secret(name: str) -> bytes:
    """The same whenever this host starts a stack of this name; a new one where the host has no identity."""
    try:
        machine = MACHINE.read_bytes().strip()
    except OSError:
        machine = b""
    return hmac.digest(machine or secrets.token_bytes(32), b"neat stack " + name.encode(), "sha256")


# rfc: 8504:6.3-identifier
def interface_id(secret: bytes, prefix: bytes, interface: str, duplicates: int = 0) -> bytes:
    """RFC 7217 section 5: F(Prefix, Net_Iface, DAD_Counter, secret_key); a network has no id here."""
    while True:
        text = prefix[:8] + interface.encode() + b"\0" + duplicates.to_bytes(4, "big")
        found = hmac.new(secret, text, hashlib.sha256).digest()[:8]
        if not is_reserved(found):
            return found
        duplicates += 1


def is_reserved(identifier: bytes) -> bool:
    """RFC 5453."""
    iana = RESERVED[1][:5] == identifier[:5]
    return identifier == RESERVED[0] or iana or (identifier[:1] == b"\xfd" and LAST_RESERVED <= identifier)
