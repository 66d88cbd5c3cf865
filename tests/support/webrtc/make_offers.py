"""Makes `offers/aiortc.sdp`. Chromium's and libwebrtc's were saved from calls of the tests' peers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aioice.ice
from aiortc.mediastreams import AudioStreamTrack, VideoStreamTrack

from tests.support.webrtc_peers import Stock


async def main() -> None:
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    async with Stock(send=VideoStreamTrack(), audio=AudioStreamTrack(), data=True) as peer:
        offer = await peer.offer()
    (Path(__file__).parent / "offers" / "aiortc.sdp").write_text(offer, newline="")


asyncio.run(main())
