"""What the tuning overrides, replaces or reads inside of aiortc and aioice.

A method that has another name in another version would not be overridden but never called, and what
it bounds would be without a bound. So all of them are looked for before the first connection.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from aioice import Connection
from aioice.candidate import Candidate
from aioice.ice import StunProtocol
from aioice.turn import TurnTransport
from aiortc import (
    RTCDtlsTransport,
    RTCIceTransport,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCRtpSender,
    RTCRtpTransceiver,
)
from aiortc.codecs.h264 import H264Encoder
from aiortc.rate import RemoteBitrateEstimator
from aiortc.rtcdtlstransport import RTCCertificate, RtpRouter
from aiortc.rtcsctptransport import RTCSctpTransport

from streamseg.webrtc.tuning_private import check_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NEEDED", "check_inside"]

NEEDED: Mapping[type, tuple[str, ...]] = {
    RTCPeerConnection: (
        "__certificates",
        "__connect",
        "__createDtlsTransport",
        "__createSctpTransport",
        "__createTransceiver",
        "__gather",
        "__iceTransports",
        "__sctp",
    ),
    RTCRtpTransceiver: ("__receiver", "__sender", "_offerDirection"),
    RTCRtpReceiver: (
        "__active_ssrc",
        "__decoder_error",
        "__decoder_queue",
        "__decoder_thread",
        "__jitter_buffer",
        "__lsr",
        "__lsr_time",
        "__nack_generator",
        "__remote_bitrate_estimator",
        "__remote_streams",
        "__rtcp_task",
        "__stop_decoder",
        "__timestamp_mapper",
        "_run_rtcp",
        "_set_rtcp_ssrc",
    ),
    RemoteBitrateEstimator: ("ssrcs",),
    RTCRtpSender: (
        "__encoder",
        "__octet_count",
        "__rtcp_task",
        "__rtp_history",
        "__rtp_task",
        "_handle_rtcp_packet",
        "_next_encoded_frame",
        "_retransmit",
        "_send_keyframe",
        "_ssrc",
        "_stream_id",
    ),
    RTCDtlsTransport: ("_handle_rtcp_data", "_handle_rtp_data", "_rtp_router"),
    RTCIceTransport: ("_connection",),
    RTCCertificate: ("_create_ssl_context",),
    RtpRouter: ("payload_type_table", "route_rtp", "ssrc_table"),
    RTCSctpTransport: (
        "_advertised_rwnd",
        "_bundled",
        "_data_channel_queue",
        "_data_channels",
        "_handle_data",
        "_inbound_streams",
        "_receive_data_chunk",
        "_receive_forward_tsn_chunk",
        "_receive_sack_chunk",
        "_sack_misordered",
        "_sent_queue",
        "mid",
    ),
    H264Encoder: ("_packetize", "_split_bitstream"),
    Connection: (
        "_protocols",
        "_query_consent_task",
        "_queue",
        "_remote_candidates",
        "check_incoming",
        "data_received",
        "get_component_candidates",
    ),
    Candidate: ("_network_host",),
    StunProtocol: ("datagram_received", "local_candidate", "request", "transport"),
    TurnTransport: ("__close_task",),
}


@functools.cache  # once for the process; an error is looked for again
def check_inside() -> None:
    """Look for everything that is needed.

    Raises:
        ConfigError: If a part of another name would leave something without its bound.
    """
    for owner, names in NEEDED.items():
        check_parts(owner, names)
