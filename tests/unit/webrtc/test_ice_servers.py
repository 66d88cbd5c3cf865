"""URLs of STUN and TURN servers, and which address of this machine comes first."""

from __future__ import annotations

import pytest
from aiortc.rtp import RtpPacket

from streamseg.errors import ConfigError
from streamseg.webrtc.ice_urls import parse_ice_url
from streamseg.webrtc.peer_options import IceServer
from streamseg.webrtc.tuning_gathering import address_towards
from streamseg.webrtc.tuning_packets import RepeatedNack


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("stun:stun.example.org", "stun:stun.example.org:3478"),
        ("stun:192.0.2.1:19302", "stun:192.0.2.1:19302"),
        ("turn:turn.example.org", "turn:turn.example.org:3478?transport=udp"),
        ("turn:t:80?transport=tcp", "turn:t:80?transport=tcp"),
        ("turns:t", "turns:t:5349?transport=tcp"),
        ("turn:[2001:db8::1]:3478", "turn:[2001:db8::1]:3478?transport=udp"),
    ],
)
def test_what_a_url_means(url: str, meant: str) -> None:
    assert str(parse_ice_url(url)) == meant
    assert parse_ice_url(meant) == parse_ice_url(url)


@pytest.mark.parametrize(
    "url",
    [
        *("", "stun:", "http://host", "turn://host", "stun:host:0", "stun:host:65536"),
        *("turn:host?transport=sctp", "stun:host?transport=udp", "turn:me:geheim@host:3478"),
        "turn:host\n",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="ICE server") as caught:
        IceServer((url,), "user", "password")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(("user", "credential"), [(None, None), ("user", None), (None, "secret")])
def test_turn_without_credentials(user: str | None, credential: str | None) -> None:
    with pytest.raises(ConfigError, match="username and credential") as caught:
        IceServer(("stun:a", "turn:a"), user, credential)
    assert "secret" not in str(caught.value)
    IceServer(("stun:a",), user, credential)


@pytest.mark.parametrize("asker", ["127.0.0.1", "127.9.9.9", "localhost", "::/64", "::1"])
def test_callers_of_this_machine_are_given_loopback(asker: str) -> None:
    """An IPv6 caller is known by its network: ``::/64`` is what ``::1`` is in."""
    assert address_towards(asker) == "127.0.0.1"


@pytest.mark.parametrize("asker", ["", "unknown", "host.example.org", "256.1.1.1"])
def test_callers_that_are_no_address(asker: str) -> None:
    assert address_towards(asker) is None


def test_each_missing_packet_has_its_own_time() -> None:
    now = 10.0
    nack = RepeatedNack(lambda: now)

    def add(number: int) -> set[int]:
        return nack.missing if nack.add(RtpPacket(sequence_number=number & 0xFFFF)) else set()

    assert add(65_533) == set()
    assert add(65_535) == {65_534}
    now += 0.04
    assert add(65_538) == {0, 1}  # and not the one that was asked for just now
    now += 0.03
    assert add(65_534) == set()  # it came
    assert add(65_539) == set()
    now += 0.04
    assert add(65_540) == {0, 1}
    assert add(65_536) == set()
    now += 0.07
    assert add(65_541) == {1}
    asked = add(65_541 + 1000)  # what is long past the sender does not have any more
    assert asked == {(65_541 + 1000 - back) & 0xFFFF for back in range(1, 128)}
