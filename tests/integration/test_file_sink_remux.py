"""FileSink carries audio, subtitles, attachments, chapters and tags over."""

from __future__ import annotations

from fractions import Fraction as F
from typing import TYPE_CHECKING, Any

import anyio
import av
import numpy as np
import pytest
from av.stream import Disposition

from streamseg.sinks import FileSink
from streamseg.sources.file import FileSource
from tests.support.clips import make_clip
from tests.unit.sinks.helpers import closing, info_from, make_frame, play, read

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


async def convert(source: Path, target: Path, **options: Any) -> FileSink:
    sink = FileSink(target, **options)
    async with closing(sink):
        await play(source, sink)
    return sink


@pytest.mark.parametrize(
    ("codec", "source", "target"),
    [
        ("aac", "mp4", "mp4"), ("aac", "mp4", "mkv"), ("aac", "mkv", "mp4"), ("aac", "mp4", "mov"),
        ("aac", "ts", "mp4"), ("libopus", "mkv", "webm"), ("libopus", "mkv", "mp4"),
        ("libmp3lame", "mp4", "mkv"), ("ac3", "mkv", "mp4"), ("flac", "mkv", "mkv"),
        ("flac", "mkv", "mp4"), ("alac", "mov", "mp4"), ("ac3", "mkv", "ts"),
        ("libmp3lame", "mkv", "avi"),
    ],
)  # fmt: skip
async def test_audio_packets_are_the_same_bytes_at_the_same_times(
    tmp_path: Path, codec: str, source: str, target: str
) -> None:
    clip = make_clip(tmp_path / f"in.{source}", frames=25, audio_tracks=1, audio_codec=codec)
    sink = await convert(clip.path, tmp_path / f"out.{target}")
    before, after = read(clip.path), read(tmp_path / f"out.{target}")
    if (codec, source) != ("aac", "ts"):  # MPEG-TS has a header in each AAC packet, MP4 has none
        assert after.payloads[1] == before.payloads[1]
    assert len(after.payloads[1]) == len(before.payloads[1])
    if target != "avi":  # counts samples from 0
        video_gap = after.times[0] - before.times[0]
        gaps = [
            a - b - video_gap
            for a, b in zip(after.side_times[1], before.side_times[1], strict=True)
        ]
        assert max(map(abs, gaps)) <= F(1, 1_000)
    assert not [line for line in sink.notices if "audio" in line]


async def test_real_mp4_sound_is_byte_equal_and_exact(tmp_path: Path, assets: Path) -> None:
    source = assets / "media" / "04_coffee.mp4"
    await convert(source, tmp_path / "out.mp4", preset="ultrafast")
    before, after = read(source, decode=False), read(tmp_path / "out.mp4", decode=False)
    assert after.times == before.times
    assert after.payloads[1] == before.payloads[1]
    assert after.side_times[1] == before.side_times[1]


@pytest.mark.parametrize("target", ["mkv", "mp4", "mov"])
async def test_tracks_keep_language_title_disposition_and_order(
    tmp_path: Path, target: str
) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=50, audio_tracks=2, subtitle_tracks=2)
    with av.open(str(clip.path)) as container:
        info = info_from(container, "in")
        tagged = info.side_streams
        for number, stream in enumerate(tagged):
            stream.metadata["language"] = ("ger", "fre", "spa", "ita")[number]
            stream.metadata["title"] = f"title {number}"
            stream.metadata["DURATION"] = "stale"
            stream.disposition = int(Disposition.default) if number in (1, 2) else 0  # type: ignore[assignment]
        async with closing(FileSink(tmp_path / f"out.{target}")) as sink:
            await sink.open(info)
            for packet in container.demux():
                if packet.stream.type == "video":
                    continue
                if packet.size:
                    await sink.send_packets([packet])
            for number in range(50):
                await sink.send(make_frame(number))
            await sink.finish()
            await sink.commit()
    after = read(tmp_path / f"out.{target}")
    assert after.types == ["video", "audio", "audio", "subtitle", "subtitle"]
    assert [tags.get("language") for tags in after.tags[1:]] == [
        "ger",
        "fra" if target == "mov" else "fre",
        "spa",
        "ita",
    ]
    assert all("stale" not in tags.values() for tags in after.tags)
    if target == "mkv":
        assert [tags.get("title") for tags in after.tags[1:]] == [f"title {n}" for n in range(4)]
    default = [bool(d & Disposition.default) for d in after.dispositions[1:]]
    assert default[:2] == [False, True]
    assert default[2] is True
    assert [len(after.payloads[i]) > 0 for i in range(1, 5)] == [True] * 4


@pytest.mark.parametrize("target", ["mp4", "mkv", "webm"])
async def test_chapters_and_tags_are_kept(tmp_path: Path, target: str) -> None:
    clip = make_clip(
        tmp_path / "in.mkv", frames=50, chapters=[(0, 1, "first"), (1, 2, "second")],
        metadata={"title": "A title", "artist": "Somebody", "comment": "ä ö"},
    )  # fmt: skip
    await convert(clip.path, tmp_path / f"out.{target}")
    after = read(tmp_path / f"out.{target}")
    found = {key.lower(): value for key, value in after.metadata.items()}
    assert (found["title"], found["artist"], found["comment"]) == ("A title", "Somebody", "ä ö")
    chapters = [
        (c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]["title"])
        for c in after.chapters
    ]
    assert chapters == [(0, 1, "first"), (1, 2, "second")]


async def test_attachments_are_kept_in_mkv_and_named_elsewhere(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=5, audio_tracks=1, attachment=True)
    await convert(clip.path, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as container:
        attached = [s for s in container.streams if s.type == "attachment"]
        assert [(s.name, s.mimetype, s.data) for s in attached] == [  # type: ignore[attr-defined]
            ("notes.txt", "text/plain", b"attached")
        ]
    sink = await convert(clip.path, tmp_path / "out.mp4")
    assert any("notes.txt" in line and "left out" in line for line in sink.notices)


@pytest.mark.parametrize(
    ("source", "target", "codec"),
    [("mkv", "mp4", "mov_text"), ("mkv", "mov", "mov_text"), ("mkv", "webm", "webvtt"),
     ("mp4", "mkv", "ass"), ("mp4", "webm", "webvtt"), ("mkv", "mkv", "subrip"),
     ("mp4", "mp4", "mov_text")],
)  # fmt: skip
async def test_text_subtitles_are_kept_or_converted(
    tmp_path: Path, source: str, target: str, codec: str
) -> None:
    clip = make_clip(tmp_path / f"in.{source}", frames=75, subtitle_tracks=1)
    await convert(clip.path, tmp_path / f"out.{target}")
    with av.open(str(tmp_path / f"out.{target}")) as container:
        stream = container.streams.subtitles[0]
        assert stream.codec_context.codec.canonical_name == codec
        lines = []
        for packet in container.demux(stream):
            if packet.size > 2 and packet.pts is not None:
                text = packet.decode()[0].dialogue.decode()  # type: ignore[union-attr]
                lines.append(
                    (packet.pts * packet.time_base, text, packet.duration * packet.time_base)
                )  # type: ignore[operator]
    assert lines == [(n, f"track 0 second {n}", F(1, 2)) for n in range(3)]


@pytest.mark.parametrize("target", ["avi", "ts", "flv"])
async def test_what_cannot_be_held_is_named(tmp_path: Path, target: str) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=10, audio_tracks=1, subtitle_tracks=1)
    sink = await convert(clip.path, tmp_path / f"out.{target}")
    assert any("subtitle stream 2 (subrip) is left out" in line for line in sink.notices)
    assert read(tmp_path / f"out.{target}").types == ["video", "audio"]


async def test_audio_and_side_streams_can_be_left_out(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=10, audio_tracks=1, subtitle_tracks=1)
    await convert(clip.path, tmp_path / "a.mkv", audio=False)
    await convert(clip.path, tmp_path / "b.mkv", side=False)
    assert read(tmp_path / "a.mkv").types == ["video", "subtitle"]
    assert read(tmp_path / "b.mkv").types == ["video", "audio"]


def onsets(path: Path, length_s: float) -> tuple[list[float], float]:
    """When tones begin in the decoded sound, and how long it is, in seconds."""
    rate = 48_000
    sound = np.zeros(int((length_s + 2) * rate), np.float32)
    end = 0
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame):
                assert part.pts is not None
                begin = round(part.pts * part.time_base * rate)  # type: ignore[operator]
                samples = part.to_ndarray()[0][max(0, -begin) :]
                begin = max(0, begin)
                sound[begin : begin + len(samples)] = samples
                end = max(end, begin + len(samples))
    loud = np.abs(sound) > 0.05
    window = 4_800  # a tone begins where 100 ms of silence were before
    cumulated = np.concatenate([[0], np.cumsum(loud)])
    starts = [
        i for i in np.flatnonzero(loud)
        if cumulated[i] - cumulated[max(0, i - window)] == 0
    ]  # fmt: skip
    return [start / rate for start in starts], end / rate


@pytest.mark.parametrize(
    ("codec", "source", "target", "expected"),
    [
        ("aac", "mp4", "webm", "opus"), ("pcm_s16le", "mkv", "webm", "opus"),
        ("libopus", "mkv", "mov", "aac"), ("flac", "mkv", "mov", "aac"),
        ("libopus", "mkv", "avi", "mp3"), ("flac", "mkv", "ts", "aac"),
        ("pcm_s16le", "mov", "ts", "aac"), ("libopus", "mkv", "flv", None),
        ("pcm_s16le", "mkv", "ts", "aac"),
    ],
)  # fmt: skip
async def test_converted_audio_is_as_long_and_in_time(
    tmp_path: Path, codec: str, source: str, target: str, expected: str | None
) -> None:
    clip = make_clip(tmp_path / f"in.{source}", frames=75, audio_tracks=1, audio_codec=codec)
    out = tmp_path / f"out.{target}"
    sink = await convert(clip.path, out)
    after = read(out)
    if expected is not None:
        assert after.codecs[1] == expected
        assert any(f"is converted to {expected}" in line for line in sink.notices)
    shift = after.times[0]  # FLV moves everything to 0
    found, length = onsets(out, 3)
    assert [round(t - float(shift), 2) for t in found] == pytest.approx([0, 1, 2], abs=0.04)
    assert length - float(shift) == pytest.approx(3, abs=0.06)


async def test_sound_that_no_encoder_takes_is_left_out_and_not_the_picture(tmp_path: Path) -> None:
    sixteen = tmp_path / "sixteen.mkv"
    with av.open(str(sixteen), "w") as container:
        picture = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=48_000, layout="hexadecagonal")
        for number in range(5):
            samples = av.AudioFrame("s16", "hexadecagonal", 1_920)
            samples.sample_rate, samples.pts = 48_000, number * 1_920
            container.mux(picture.encode(av.VideoFrame(64, 64, "yuv420p")))
            container.mux(sound.encode(samples))
        container.mux(picture.encode(None))
    out = tmp_path / "out.ts"
    sink = await convert(sixteen, out)
    assert len(read(out).codecs) == 1
    assert any("left out: it cannot be converted" in line for line in sink.notices)


async def test_a_gap_in_converted_audio_stays_where_it_was(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=75, audio_tracks=1, audio_codec="flac")
    with av.open(str(clip.path)) as container:
        async with closing(FileSink(tmp_path / "out.webm")) as sink:
            await sink.open(info_from(container, "in"))
            for packet in container.demux():
                time = None if packet.pts is None else packet.pts * packet.time_base
                if packet.stream.type == "audio" and packet.size and time is not None:
                    if not F(1, 2) < time < F(3, 2):
                        await sink.send_packets([packet])
            for number in range(75):
                await sink.send(make_frame(number))
            await sink.finish()
            await sink.commit()
    found, length = onsets(tmp_path / "out.webm", 3)
    assert found == pytest.approx([0, 2], abs=0.04)
    assert length == pytest.approx(3, abs=0.06)


@pytest.mark.parametrize("order", ["packets_first", "frames_first"])
async def test_packets_may_come_before_or_after_all_frames(tmp_path: Path, order: str) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=25, audio_tracks=1)
    with av.open(str(clip.path)) as container:
        info = info_from(container, "in")
        packets = [p for p in container.demux(audio=0) if p.size]
        async with closing(FileSink(tmp_path / "out.mp4")) as sink:
            await sink.open(info)
            if order == "packets_first":
                await sink.send_packets(packets)
            for number in range(25):
                await sink.send(make_frame(number))
            if order == "frames_first":
                await sink.send_packets(packets)
            await sink.finish()
            await sink.commit()
    before, after = read(clip.path), read(tmp_path / "out.mp4")
    assert after.payloads[1] == before.payloads[1]
    assert after.side_times[1] == before.side_times[1]
    assert len(after.times) == 25


async def test_packets_are_not_changed_and_may_go_to_two_sinks(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=10, audio_tracks=1)
    with av.open(str(clip.path)) as container:
        info = info_from(container, "in")
        packets = [p for p in container.demux(audio=0) if p.size]

        def state() -> list[Any]:
            return [
                (p.pts, p.dts, p.duration, p.time_base, p.stream_index, bytes(p)) for p in packets
            ]

        before = state()
        for name in ("a.mp4", "b.webm", "c.mov"):
            async with closing(FileSink(tmp_path / name)) as sink:
                await sink.open(info)
                await sink.send_packets(packets)
                for number in range(10):
                    await sink.send(make_frame(number))
                await sink.finish()
                await sink.commit()
            assert state() == before
    assert read(tmp_path / "a.mp4").payloads[1] == read(tmp_path / "c.mov").payloads[1]


async def test_the_source_may_be_closed_before_the_first_frame_arrives(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=25, audio_tracks=1, subtitle_tracks=1)
    with av.open(str(clip.path)) as container:
        info = info_from(container, "in")
        packets = [p for p in container.demux() if p.size and p.stream.type != "video"]
        sink = FileSink(tmp_path / "out.mp4")
        await sink.open(info)
    async with closing(sink):
        await sink.send_packets(packets)
        for number in range(25):
            await sink.send(make_frame(number))
        await sink.finish()
        await sink.commit()
    assert read(tmp_path / "out.mp4").codecs == ["h264", "aac", "mov_text"]


async def test_disordered_packets_do_not_cost_the_file(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=25, audio_tracks=1)
    with av.open(str(clip.path)) as container:
        info = info_from(container, "in")
        packets = [p for p in container.demux(audio=0) if p.size]
        packets[5].pts = packets[5].dts = packets[2].pts
        async with closing(FileSink(tmp_path / "out.mp4")) as sink:
            await sink.open(info)
            await sink.send_packets(packets)
            for number in range(25):
                await sink.send(make_frame(number))
            await sink.finish()
            await sink.commit()
    assert len(read(tmp_path / "out.mp4").payloads[1]) == len(packets)
    assert any("out of order" in line for line in sink.notices)


async def test_from_file_source_to_file_sink(tmp_path: Path) -> None:
    clip = make_clip(
        tmp_path / "in.mp4", frames=40, rate=F(30_000, 1_001), audio_tracks=2, subtitle_tracks=1,
        chapters=[(0, 1, "one")], metadata={"title": "t"},
    )  # fmt: skip
    source, sink = FileSource(clip.path), FileSink(tmp_path / "out.mp4")
    info = await source.open()
    async with closing(sink):
        await sink.open(info)
        while True:
            try:
                frame = await source.receive()
            except anyio.EndOfStream:
                break
            await sink.send(frame)
            await sink.send_packets(source.take_packets())
        await sink.send_packets(source.take_packets())
        await source.aclose()
        await sink.finish()
        await sink.commit()
    before, after = read(clip.path), read(tmp_path / "out.mp4")
    assert after.times == before.times
    assert {i: after.payloads[i] for i in (1, 2, 3)} == {i: before.payloads[i] for i in (1, 2, 3)}
    assert after.side_times[1] == before.side_times[1]
