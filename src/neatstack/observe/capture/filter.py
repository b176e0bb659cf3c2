"""Filters in the language of pcap-filter(7), compiled and run by libpcap itself."""

import ctypes

from neatstack.control.errors import NeatError

LIBRARIES = ("libpcap.so.0.8", "libpcap.so.1", "libpcap.so")
ETHERNET = 1  # DLT_EN10MB
LONGEST = 262144  # bytes of a packet
UNKNOWN_NETMASK = 0xFFFFFFFF


class Program(ctypes.Structure):
    """struct bpf_program"""

    _fields_ = [("length", ctypes.c_uint), ("instructions", ctypes.c_void_p)]


class Header(ctypes.Structure):
    """struct pcap_pkthdr"""

    _fields_ = [
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("kept", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
    ]


def load() -> ctypes.CDLL:
    """Raises NeatError when it is not installed."""
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.pcap_open_dead.restype = ctypes.c_void_p
        library.pcap_geterr.restype = ctypes.c_char_p
        library.pcap_geterr.argtypes = library.pcap_close.argtypes = [ctypes.c_void_p]
        library.pcap_compile.argtypes = [
            *(ctypes.c_void_p, ctypes.POINTER(Program), ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32)
        ]
        library.pcap_offline_filter.argtypes = [ctypes.POINTER(Program), ctypes.POINTER(Header), ctypes.c_char_p]
        library.pcap_freecode.argtypes = [ctypes.POINTER(Program)]
        return library
    raise NeatError("a filter needs libpcap, which is missing; install it: apt-get install libpcap0.8")


class Filter:
    """A compiled expression. Raises NeatError for what libpcap does not understand, or cannot look up."""

    def __init__(self, text: str) -> None:
        self.text = text
        if "\0" in text:
            raise NeatError("a filter cannot contain a zero byte", status=2)
        self._library = load()
        self._program = Program()
        self._header = Header()
        handle = self._library.pcap_open_dead(ETHERNET, LONGEST)
        if not handle:
            raise NeatError("libpcap has no memory for a filter")
        try:
            expression = text.encode(errors="surrogateescape")
            if self._library.pcap_compile(handle, self._program, expression, 1, UNKNOWN_NETMASK) < 0:
                why = self._library.pcap_geterr(handle).decode(errors="replace").splitlines()
                raise NeatError(f"filter {text!r}: {why[0] if why else 'not understood'}; see pcap-filter(7)", status=2)
        finally:
            self._library.pcap_close(handle)

    def __del__(self) -> None:
        if getattr(self, "_program", None) is not None:
            self._library.pcap_freecode(self._program)

    def matches(self, packet: bytes) -> bool:
        """Does the expression hold for a whole frame?"""
        self._header.kept = self._header.length = len(packet)
        return bool(self._library.pcap_offline_filter(self._program, self._header, packet))
