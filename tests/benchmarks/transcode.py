"""A plain transcode with the libraries that streamseg uses: decode, encode, nothing between."""

from __future__ import annotations

import sys

import av

with av.open(sys.argv[1]) as source, av.open(sys.argv[2], "w") as target:
    video = source.streams.video[0]
    video.thread_type = "AUTO"
    encoder = target.add_stream(
        "libx264", video.average_rate, options={"preset": "veryfast", "crf": "21"}
    )
    encoder.width, encoder.height, encoder.pix_fmt = video.width, video.height, video.pix_fmt
    encoder.time_base = video.time_base
    audio = target.add_stream_from_template(source.streams.audio[0])
    for packet in source.demux(video, source.streams.audio[0]):
        if packet.stream.type == "audio":
            if packet.dts is not None:
                packet.stream = audio
                target.mux(packet)
            continue
        for frame in packet.decode():
            frame.pict_type = 0
            target.mux(encoder.encode(frame))
    target.mux(encoder.encode(None))
