from __future__ import annotations

import random
import re

import pytest

from streamseg.webrtc.errors import SignalError
from streamseg.webrtc.signals import MAX_SDP_BYTES, check_offer, read_fragment
from tests.unit.webrtc.fakes import OFFERS, offer

REAL = sorted(OFFERS.glob("*.sdp"))


def refused(sdp: str, *, sends: bool = True, receives: bool = True) -> SignalError:
    with pytest.raises(SignalError) as caught:
        check_offer(sdp, sends=sends, receives=receives)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 200
    return caught.value


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_offers_of_real_peers_are_taken(path) -> None:
    assert path.stat().st_size > 1000
    check_offer(path.read_bytes().decode(), sends=True, receives=False)


def test_there_are_real_offers() -> None:
    assert len(REAL) >= 2


def test_line_ends_may_be_bare() -> None:
    check_offer(offer().replace("\r\n", "\n"), sends=True, receives=True)


@pytest.mark.parametrize(
    ("direction", "sends", "receives", "taken"),
    [
        ("sendrecv", True, True, True),
        ("sendonly", False, True, True),
        ("recvonly", True, False, True),
        ("sendonly", True, True, False),
        ("recvonly", False, True, False),
        ("sendonly", True, False, False),
        ("inactive", True, True, False),
    ],
)
def test_directions(direction: str, sends: bool, receives: bool, taken: bool) -> None:
    if taken:
        check_offer(offer(direction), sends=sends, receives=receives)
    else:
        error = refused(offer(direction), sends=sends, receives=receives)
        assert error.status == 422
        assert direction in str(error)


def test_direction_of_the_session_counts_for_a_section_without() -> None:
    sdp = offer("sendonly").replace("a=sendonly\r\n", "")
    sdp = sdp.replace("t=0 0\r\n", "t=0 0\r\na=sendonly\r\n")
    check_offer(sdp, sends=False, receives=True)
    refused(sdp, sends=True, receives=True)


@pytest.mark.parametrize("nothing", ["", "v=0", "v=0\r\n", "hello", "\x00" * 100, "v=1\r\nm=video"])
def test_what_is_no_offer_is_400(nothing: str) -> None:
    assert refused(nothing).status == 400


def test_too_large_is_413() -> None:
    assert refused(offer() + "a=x\r\n" * MAX_SDP_BYTES).status == 413
    assert refused(offer() + "a=" + "x" * 5000).status == 413
    assert refused("v=0\r\n" + "a=ä\r\n" * 12_000).status == 413


def test_thousands_of_candidates_are_refused() -> None:
    line = "a=candidate:1 1 udp 2122265343 192.0.2.9 60113 typ host\r\n"
    error = refused(offer() + line * 1000)
    assert error.status == 422
    assert "1000 candidates" in str(error) or "candidates in one section" in str(error)


def test_no_codec_in_common_is_406_and_names_ours() -> None:
    sdp = re.sub(r"a=rtpmap:(\d+) (VP8|H264)/", r"a=rtpmap:\1 AV1/", offer())
    error = refused(sdp)
    assert error.status == 406
    assert "H264 and VP8" in str(error)


def test_without_video_is_422() -> None:
    head, _, rest = offer().partition("m=video")
    after = rest[rest.index("m=") :]
    assert refused(head + after).status == 422


def test_a_rejected_video_is_none() -> None:
    sdp = re.sub(r"m=video \d+", "m=video 0", offer())
    assert refused(sdp).status == 422


def test_bundle_only_video_is_one() -> None:
    sdp = re.sub(r"m=video \d+ (.*)\r\n", r"m=video 0 \1\r\na=bundle-only\r\n", offer())
    check_offer(sdp, sends=True, receives=True)


@pytest.mark.parametrize("attribute", ["fingerprint", "ice-ufrag", "ice-pwd"])
def test_without_what_makes_a_connection_is_400(attribute: str) -> None:
    sdp = re.sub(rf"a={attribute}:.*\r\n", "", offer())
    error = refused(sdp)
    assert error.status == 400
    assert attribute in str(error)
    wrong = re.sub(rf"a={attribute}:.*\r\n", f"a={attribute}:<script>\r\n", offer())
    assert "<script>" not in str(refused(wrong))


def test_simulcast_and_too_many_sections_are_422() -> None:
    simulcast = offer().replace(
        "a=rtcp-mux", "a=rid:hi send\r\na=simulcast:send hi;lo\r\na=rtcp-mux"
    )
    assert refused(simulcast).status == 422
    video = offer()[offer().index("m=video") :]
    assert refused(offer() + video).status == 422
    assert refused(offer() + video * 3).status == 422


def test_mutated_offers_raise_nothing_else() -> None:
    """What passes is the next one's matter; what does not is refused and nothing more."""
    chance = random.Random(20_260)
    refusals = passed = 0
    for _ in range(2000):
        sdp = mutated(offer(), chance)
        try:
            check_offer(sdp, sends=True, receives=True)
            passed += 1
        except SignalError as exc:
            refusals += 400 <= exc.status < 500
    assert refusals + passed == 2000
    assert refusals > 200
    assert passed > 200


def mutated(sdp: str, chance: random.Random) -> str:
    lines = sdp.split("\r\n")
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(lines))
        what = chance.randrange(6)
        if what == 0:
            del lines[place]
        elif what == 1:
            lines.insert(place, chance.choice(lines))
        elif what == 2:
            lines[place] = lines[place][: chance.randint(0, len(lines[place]))]
        elif what == 3:
            lines[place] += chance.choice(["\x00", " " * 50, "é", "-1", "9" * 30, "\t"])
        elif what == 4:
            lines[place] = re.sub(r"\d+", str(chance.choice([0, -1, 2**40])), lines[place], count=1)
        else:
            other = chance.randrange(len(lines))
            lines[place], lines[other] = lines[other], lines[place]
        if not lines:
            lines = ["v=0"]
    return "\r\n".join(lines)


CANDIDATE = "candidate:1 1 udp 2122265343 192.0.2.9 60113 typ host"


def test_fragment_is_read() -> None:
    fragment = read_fragment(
        f"a=ice-ufrag:EsAw\r\na=ice-pwd:x\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\na={CANDIDATE}\r\n"
        "a=end-of-candidates\r\n"
    )
    assert fragment.user == "EsAw"
    assert fragment.candidates == (("0", CANDIDATE),)
    assert fragment.ended


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        f"a={CANDIDATE}\r\n",  # of no section
        "a=mid:0\r\na=candidate:nonsense\r\n",
        f"a=mid:{'x' * 100}\r\na={CANDIDATE}\r\n",
        "a=mid:0\r\n" + f"a={CANDIDATE}\r\n" * 21,
        f"a=mid:0\r\na={CANDIDATE}\x00\r\n",
    ],
)
def test_wrong_fragments_are_refused(text: str) -> None:
    with pytest.raises(SignalError):
        read_fragment(text)
