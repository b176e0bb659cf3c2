"""Options: defaults, the file, the command line, and one line for whatever is wrong."""

from pathlib import Path
from typing import Any

import pytest

from neatstack.control.config import load
from neatstack.control.errors import NeatError
from neatstack.control.settings import Settings


def test_defaults_are_those_of_settings() -> None:
    assert load(None, {}) == Settings()


def test_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "web.toml"
    file.write_text('name = "web"\nreplicas = 3\naddress = "10.9.0.2/16"\n[faults]\ndrop = 0.01\n')
    settings = load(file, {"replicas": 5, "name": None})
    assert (settings.name, settings.replicas, settings.address) == ("web", 5, "10.9.0.2/16")
    assert settings.max_replicas == 5
    assert settings.host_address == "10.9.0.1/16"
    assert settings.faults is not None and settings.faults["drop"] == 0.01
    assert Settings.from_json(settings.to_json()) == settings


def test_what_tcp_goes_without_and_the_keys_of_fast_open(tmp_path: Path) -> None:
    file = tmp_path / "web.toml"
    file.write_text(
        'timestamps = false\nslow_start_after_idle = false\nfastopen = 0x403\nfastopen_key = "1-2-3-A0b0C0d0"'
    )
    settings = load(file, {})
    assert (settings.without, settings.fastopen) == (["timestamps", "slow_start_after_idle"], 0x403)
    assert settings.fastopen_keys == "010000000200000003000000d0c0b0a0"  # as Linux: each group a word, low byte first
    assert load(file, {"fastopen_key": "1-2-3-4,5-6-7-8"}).fastopen_keys == "".join(f"0{n}000000" for n in range(1, 9))
    assert Settings.from_json(settings.to_json()) == settings


def test_recovery_in_file_and_command_line(tmp_path: Path) -> None:
    file = tmp_path / "web.toml"
    file.write_text('recovery = "reset"\nspares = 0\nallow_faults = true\n')
    assert (load(file, {}).recovery, load(file, {}).spares, load(file, {}).allow_faults) == ("reset", 0, True)
    given = load(file, {"recovery": "adopt", "spares": 8, "allow_faults": None})
    assert (given.recovery, given.spares, given.allow_faults) == ("adopt", 8, True)


def test_host_address_avoids_ours_and_prefers_the_gateway() -> None:
    assert load(None, {"address": "10.9.0.1/24"}).host_address == "10.9.0.2/24"
    assert load(None, {"address": "10.9.0.2/24", "gateway": "10.9.0.254"}).host_address == "10.9.0.254/24"


def test_several_addresses_of_both_families(tmp_path: Path) -> None:
    file = tmp_path / "web.toml"
    file.write_text('address = ["fd77::2/64", "10.9.0.2/24", "10.8.0.2/16"]\ngateway = ["10.9.0.9", "fe80::1"]\n')
    settings = load(file, {"slaac": None, "address": []})
    assert settings.addresses == ["fd77::2/64", "10.9.0.2/24", "10.8.0.2/16"]
    assert (settings.address, settings.interface.network.prefixlen) == ("10.9.0.2/24", 24)
    assert [str(interface) for interface in settings.interfaces6] == ["fd77::2/64"]
    assert (settings.gateways, settings.gateways6) == (["10.9.0.9"], ["fe80::1"])
    assert settings.host_addresses == ["10.9.0.9/24", "10.8.0.1/16", "fd77::1/64"]
    assert settings.ipv6
    assert not settings.slaac
    given = load(file, {"address": ["10.7.0.1/24"], "gateway": ["10.7.0.2"], "slaac": True})
    assert (given.addresses, given.gateways6, given.ipv6) == (["10.7.0.1/24"], [], True)
    assert Settings.from_json(settings.to_json()) == settings


def test_host_addresses_of_one_family_are_replaced_by_those_given() -> None:
    both = ["10.9.0.2/24", "FD77:0::1/64", "fe80::7/64"]
    assert load(None, {"address": both}).host_addresses == ["10.9.0.1/24", "fd77::2/64"]
    assert load(None, {"address": both, "host_address": ["fd77::9/64"]}).host_addresses == ["10.9.0.1/24", "fd77::9/64"]
    assert load(None, {"address": both}).addresses == ["10.9.0.2/24", "fd77::1/64", "fe80::7/64"]


def test_ipv6_is_off_until_asked_for() -> None:
    assert not load(None, {}).ipv6


def test_routes_of_both_families(tmp_path: Path) -> None:
    file = tmp_path / "web.toml"
    file.write_text('route = ["10.9.0.0/16 via 10.77.0.9", "192.0.2.7"]\n')
    assert load(file, {}).routes == ["10.9.0.0/16 via 10.77.0.9", "192.0.2.7/32"]
    given = ["fd79::/64,via fe80::9", "2001:db8::/32 , via  fd77::9", "10.8.0.0/16", "10.7.0.0/16,via 10.8.0.1"]
    told = load(file, {"address": ["10.77.0.2/24", "fd77::2/64"], "route": given})
    assert told.routes == [
        "fd79::/64 via fe80::9",
        "2001:db8::/32 via fd77::9",
        "10.8.0.0/16",
        "10.7.0.0/16 via 10.8.0.1",
    ]
    assert load(None, {}).routes == []


def test_rejuvenation_as_seconds_and_as_text(tmp_path: Path) -> None:
    file = tmp_path / "web.toml"
    file.write_text('rejuvenate_every = "10m"\nrejuvenate_jitter = 0.25\n')
    assert (load(file, {}).rejuvenate_every, load(file, {}).rejuvenate_jitter) == (600, 0.25)
    assert load(file, {"rejuvenate_every": "90s"}).rejuvenate_every == 90
    file.write_text("rejuvenate_every = 45\n")
    assert load(file, {}).rejuvenate_every == 45


@pytest.mark.rfc("8200:5-least")
@pytest.mark.parametrize(("given", "named", "remedy"), [
    ({"rejuvenate_every": "soon"}, "rejuvenate_every", "10m"),
    ({"rejuvenate_every": "0.1s"}, "rejuvenate_every", "1 second"),
    ({"rejuvenate_jitter": 2}, "rejuvenate_jitter", "1"),
    ({"replicas": 17}, "replicas", "16"),
    ({"replicas": 0}, "replicas", "1"),
    ({"replicas": 4, "max_replicas": 3}, "replicas", "max_replicas"),
    ({"max_replicas": 99}, "max_replicas", "16"),
    ({"address": "10.0.0.1"}, "address", "/24"),
    ({"address": "10.0.0.0/24"}, "address", "between"),
    ({"address": "127.0.0.1/8"}, "address", "unicast"),
    ({"address": "224.0.0.1/24"}, "address", "unicast"),
    ({"address": "nonsense"}, "address", "nonsense"),
    ({"gateway": "10.1.0.1"}, "gateway", "choose"),
    ({"gateway": "10.77.0.2"}, "gateway", "choose"),
    ({"host_address": "10.77.0.2/24"}, "host_address", "choose"),
    ({"address": ["10.0.0.1/24", "10.0.0.1/24"]}, "address", "once"),
    ({"address": ["fd77::2/64"]}, "address", "IPv4"),
    ({"address": ["10.0.0.1/24", "fd77::2"]}, "address", "fd77::2/64"),
    ({"address": ["10.0.0.1/24", "fd77::/64"]}, "address", "another"),
    ({"address": ["10.0.0.1/24", "ff02::1/64"]}, "address", "unicast"),
    ({"address": ["10.0.0.1/24", "::1/64"]}, "address", "unicast"),
    ({"address": ["10.0.0.1/24", "::ffff:10.0.0.2/96"]}, "address", "unicast"),
    ({"address": ["10.0.0.1/24", "fe80::2/32"]}, "address", "fe80::/64"),
    ({"address": [f"10.{n}.0.1/24" for n in range(9)]}, "address", "8"),
    ({"address": ["fd77::1/64", *(f"10.{n}.0.1/24" for n in range(7))]}, "address", "link-local"),
    ({"address": ["10.0.0.1/24", "fd77::2/64"], "mtu": 1279}, "mtu", "1280"),
    ({"gateway": "fe80::1"}, "gateway", "family"),
    ({"gateway": ["10.77.0.1", "10.77.0.1"]}, "gateway", "twice"),
    ({"gateway": [f"10.77.0.{n}" for n in range(3, 12)]}, "gateway", "at most 8"),
    ({"gateway": "nonsense"}, "gateway", "nonsense"),
    ({"address": ["10.0.0.1/24", "fd77::2/64"], "gateway": "fd78::1"}, "gateway", "choose"),
    ({"route": 7}, "route", "via"),
    ({"route": "10.9.0.0/16 by 10.77.0.1"}, "route", "via"),
    ({"route": "nonsense"}, "route", "nonsense"),
    ({"route": "10.9.0.0/16,via nobody"}, "route", "nobody"),
    ({"route": "10.9.1.0/16,via 10.77.0.1"}, "route", "10.9.0.0/16"),
    ({"route": "0.0.0.0/0,via 10.77.0.1"}, "route", "gateway"),
    ({"route": "224.0.0.0/4,via 10.77.0.1"}, "route", "unicast"),
    ({"route": "::ffff:10.9.0.0/112,via 10.77.0.1"}, "route", "IPv4"),
    ({"route": "10.9.0.0/16,via fd77::1"}, "route", "families"),
    ({"route": "10.9.0.0/16,via 127.0.0.1"}, "route", "gateway's"),
    ({"route": "10.77.0.128/25,via 10.77.0.1"}, "route", "10.77.0.0/24"),
    ({"route": "10.9.0.0/16,via 10.78.0.1"}, "route", "on no network"),
    ({"route": "10.9.0.0/16,via 10.77.0.2"}, "route", "own address"),
    ({"route": "fd79::/64"}, "route", "family"),
    ({"route": ["10.9.0.0/16", "10.9.0.0/16,via 10.77.0.1"]}, "route", "twice"),
    ({"route": [f"10.{n}.0.0/16" for n in range(9)]}, "route", "8"),
    ({"slaac": "perhaps"}, "slaac", "perhaps"),
    ({"host_address": "10.77.0"}, "host_address", "10.77.0"),
    ({"address": ["10.0.0.1/24", "fd77::2/64"], "host_address": "fd77::2/64"}, "host_address", "choose"),
    ({"device": "eth0"}, "device", "tap:neat0"),
    ({"device": "tap:much-too-long-a-name"}, "device", "15"),
    ({"netns": "../etc"}, "netns", "ip netns"),
    ({"name": "../x"}, "name", "letters"),
    ({"user": "root"}, "user", "nobody"),
    ({"user": "no-such-user"}, "user", "nobody"),
    ({"sockets": 1000}, "sockets", "1024"),
    ({"recovery": "hope"}, "recovery", "'adopt' or 'reset'"),
    ({"receive_buffer": 1 << 30}, "sockets", "room for 512 of a program; got 8192"),
    ({"send_buffer": 1 << 31}, "send_buffer", "1073741824"),
    ({"ecn": "yes"}, "ecn", "'off', 'passive' or 'active'"),
    ({"timestamps": 7}, "timestamps", "7"),
    ({"fastopen": 8}, "fastopen", "0x400"),
    ({"ttl": 0}, "ttl", "got 0"),
    ({"hop_limit": 256}, "hop_limit", "got 256"),
    ({"icmp_errors": -1}, "icmp_errors", "got -1"),
    ({"dad_transmits": "x"}, "dad_transmits", "got 'x'"),
    ({"fastopen_key": "a1-b2-c3"}, "fastopen_key", "four groups"),
    ({"fastopen_key": "a1-b2-c3-d4,a1"}, "fastopen_key", "two such keys"),
    ({"spares": 9}, "spares", "8"),
    ({"spares": -1}, "spares", "0"),
    ({"allow_faults": "perhaps"}, "allow_faults", "perhaps"),
    ({"colour": "red"}, "colour", "replicas"),
    ({"faults": {"drop": 2.0}}, "faults.drop", "1"),
    ({"faults": {"lose": 0.1}}, "faults.lose", "there are: seed, drop,"),
    ({"faults": 0.1}, "faults", "table"),
    ({"user": "no\0body"}, "user", "nobody"),
    ({"ttl": float("nan")}, "ttl", "got nan"),
])  # fmt: skip
def test_errors_name_option_and_remedy(given: dict[str, Any], named: str, remedy: str) -> None:
    with pytest.raises(NeatError) as error:
        load(None, given)
    message = str(error.value)
    assert message.startswith(f"{named}: ")
    assert remedy in message
    assert "\n" not in message


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(NeatError, match="No such file"):
        load(tmp_path / "none.toml", {})
    broken = tmp_path / "broken.toml"
    broken.write_text("replicas = = 3")
    with pytest.raises(NeatError, match=r"broken.toml is not TOML.*line 1"):
        load(broken, {})
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(NeatError, match="is not TOML"):
        load(broken, {})
