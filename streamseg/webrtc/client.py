"""WhepSource and WhipSink: playback from, and publishing to, servers of the WebRTC standards.

WHIP is RFC 9725, WHEP its draft mirror image: an offer is posted, the answer comes back with the
place of the session, which is deleted in the end.
"""

from __future__ import annotations

from streamseg.webrtc.client_call import Retry
from streamseg.webrtc.client_sink import WhipSink
from streamseg.webrtc.client_source import WhepSource

__all__ = ["Retry", "WhepSource", "WhipSink"]
