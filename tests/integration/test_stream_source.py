"""StreamSource over every protocol that can be had on one machine, and what it says to bad input."""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path

import anyio
import av
import pytest

from streamseg.errors import SourceOpenError
from streamseg.frames import Frame
from streamseg.sources.reconnect import Reconnect
from streamseg.sources.stream import StreamSource
from tests.support.clips import make_clip, read_frame_number
from tests.support.programs import lack, needs_program
from tests.support.servers import Peer, Server, chunks_of, free_port, serve_folder
from tests.support.source_factories import FRAMES, Media, pushed

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.timeout(30)]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    return Media(tmp_path_factory.mktemp("media"))


async def receive(source: StreamSource, count: int) -> list[Frame]:
    return [await source.receive() for _ in range(count)]


async def drain(source: StreamSource, frames: list[Frame]) -> None:
    """Receive until that raises."""
    while True:
        frames.append(await source.receive())


def numbers_of(frames: list[Frame]) -> list[int]:
    return [read_frame_number(frame.video) for frame in frames]


# ---- protocols ----


@needs_program("ffmpeg")
@pytest.mark.parametrize(
    ("scheme", "path", "format_name", "options"),
    [
        ("udp", "", "mpegts", {}),
        ("rtmp", "/live/key", "flv", {"listen": "1"}),
        ("rtsp", "/live", "rtsp", {"rtsp_flags": "listen"}),
    ],
)
async def test_a_sender_is_received(
    media: Media, scheme: str, path: str, format_name: str, options: dict[str, str]
) -> None:
    url = f"{scheme}://127.0.0.1:{free_port()}{path}"
    with pushed(media.movie, url, format_name=format_name):
        async with StreamSource(url, options=options) as source:
            info = await source.open()
            frames = await receive(source, 10)
            while not (packets := source.take_packets()):
                await source.receive()
            sound = [stream.type for stream in info.side_streams]

            assert sound == ["audio"]
            assert packets
            assert (info.width, info.height) == (320, 180)
            numbers = numbers_of(frames)
            assert all(0 < (b - a) % FRAMES < 15 for a, b in pairwise(numbers))


@needs_program("ffmpeg")
async def test_srt_comes_through_the_ffmpeg_program(media: Media) -> None:
    listed = await anyio.run_process(["ffmpeg", "-hide_banner", "-protocols"])
    if b"srt" not in listed.stdout.split():
        lack("this ffmpeg has no srt")
    url = f"srt://127.0.0.1:{free_port()}"
    with pushed(media.movie, f"{url}?mode=listener", format_name="mpegts"):
        async with _retried(url) as source:
            frames = await receive(source, 10)
            assert all(0 < (b - a) % FRAMES < 15 for a, b in pairwise(numbers_of(frames)))
            while not source.take_packets():
                await source.receive()


@asynccontextmanager
async def _retried(url: str) -> AsyncIterator[StreamSource]:
    """Open a source as soon as its sender listens, which it does not say."""
    with anyio.fail_after(10):
        while True:
            source = StreamSource(url, open_timeout_s=2)
            try:
                await source.open()
                break
            except SourceOpenError:
                await anyio.sleep(0.05)
    async with source:
        yield source


async def test_srt_without_a_program_for_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceOpenError, match=r"without srt, and there is no ffmpeg on PATH"):
        await StreamSource("srt://127.0.0.1:9").open()


def write_playlist(media: Media, folder: Path) -> Path:
    """Write the clip's pictures as an HLS playlist of three segments."""
    path = folder / "live.m3u8"
    settings = {"hls_time": "0.4", "hls_playlist_type": "vod"}
    with (
        av.open(str(media.transport_stream)) as clip,
        av.open(str(path), "w", format="hls", container_options=settings) as playlist,
    ):
        video = clip.streams.video[0]
        copy = playlist.add_stream_from_template(video)
        for packet in clip.demux(video):
            if packet.dts is not None:
                packet.stream = copy
                playlist.mux(packet)
    return path


def check_real_time(frames: list[Frame]) -> None:
    assert numbers_of(frames) == list(range(FRAMES))
    # Not the last ones: the demuxer holds them back until it knows what follows.
    took_s = frames[-5].captured_s - frames[0].captured_s
    assert took_s == pytest.approx((FRAMES - 5) / 25, abs=0.2)


async def test_a_finished_playlist_is_played_at_its_own_speed_and_ends(
    media: Media, tmp_path: Path
) -> None:
    path = write_playlist(media, tmp_path)
    frames: list[Frame] = []
    with serve_folder(tmp_path) as url:
        async with StreamSource(f"{url}/{path.name}") as source:
            with pytest.raises(anyio.EndOfStream):
                await drain(source, frames)
    check_real_time(frames)


async def test_a_running_playlist_is_played_at_its_own_speed_and_ends_when_it_is_finished(
    media: Media, tmp_path: Path
) -> None:
    path = anyio.Path(write_playlist(media, tmp_path))
    # With the 0 that the muxer rounds down to, the demuxer asks again and again, and gives up.
    finished = (await path.read_text()).replace("TARGETDURATION:0", "TARGETDURATION:1")
    await path.write_text(
        finished.replace("#EXT-X-ENDLIST\n", "").replace("#EXT-X-PLAYLIST-TYPE:VOD\n", "")
    )
    plan = Reconnect(first_delay_s=0.05)
    with serve_folder(tmp_path) as url:
        async with StreamSource(f"{url}/{path.name}", reconnect=plan, read_timeout_s=2) as source:
            frames = await receive(source, FRAMES)
            await path.write_text(finished)
            with anyio.fail_after(15), pytest.raises(anyio.EndOfStream):
                await drain(source, frames)
            statistics = source.statistics()
    check_real_time(frames)
    assert statistics.reconnects == 0


async def test_motion_jpeg_is_timed_by_its_arrival(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", frames=20, codec="mjpeg", pix_fmt="yuvj420p")
    slow = [(2 * moment_s, data) for moment_s, data in chunks_of(clip.path, "mpjpeg")]

    def script(peer: Peer) -> None:
        peer.accept("multipart/x-mixed-replace;boundary=ffmpeg")
        peer.play(slow)
        peer.stall()

    with Server(script) as server:
        async with StreamSource(server.url("http")) as source:
            frames = await receive(source, 10)
    for a, b in pairwise(frames):  # and not by the 25 a second that the demuxer makes up
        assert a.pts_s is not None
        assert b.pts_s is not None
        assert b.pts_s - a.pts_s == pytest.approx(b.captured_s - a.captured_s, abs=0.001)


async def test_a_rotated_file_on_a_server_arrives_upright(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4", frames=5, rotation=90, size=(180, 320), faststart=True)
    with serve_folder(tmp_path) as url:
        async with StreamSource(f"{url}/clip.mp4") as source:
            info = await source.open()
            frame = await source.receive()
            assert (info.width, info.height) == (frame.width, frame.height) == (180, 320)
            assert read_frame_number(frame.video) in range(5)


# ---- a pipe ----


@contextmanager
def silent_pipe() -> Iterator[int]:
    out, into = os.pipe()
    try:
        yield out
    finally:
        os.close(out)
        os.close(into)


async def test_a_silent_pipe_is_given_up_after_the_timeout() -> None:
    with silent_pipe() as out, pytest.raises(SourceOpenError, match=r"nothing came within 0\.2 s"):
        await StreamSource(f"pipe:{out}", open_timeout_s=0.2).open()


async def test_a_silent_pipe_is_left_at_once_when_cancelled() -> None:
    with silent_pipe() as out:
        begin_s = time.monotonic()
        with anyio.move_on_after(0.1):
            await StreamSource(f"pipe:{out}").open()
        assert time.monotonic() - begin_s < 0.6
        assert not [t for t in threading.enumerate() if t.name == "streamseg-live-grab"]


# ---- what cannot be opened ----


async def failure(url: str, **options: float) -> str:
    """Open a URL that cannot be; return the message, which is one line and names the URL."""
    source = StreamSource(url, open_timeout_s=options.get("open_timeout_s", 5))
    with pytest.raises(SourceOpenError) as caught:
        await source.open()
    message = str(caught.value)
    assert "\n" not in message
    assert source.statistics().reconnects == 0
    with pytest.raises(anyio.ClosedResourceError):
        await source.receive()
    return message


async def test_a_port_where_nobody_listens() -> None:
    for scheme in ("http", "tcp", "rtsp", "rtmp"):
        message = await failure(f"{scheme}://127.0.0.1:{free_port()}/live")
        assert "refused" in message
        assert "is the port right" in message


async def test_a_host_that_does_not_exist() -> None:
    message = await failure("http://no-such-host.invalid/live")
    assert "host no-such-host.invalid is not known" in message


@pytest.mark.parametrize("url", ["gopher://127.0.0.1/x", "webcam", "file:///etc/passwd"])
async def test_a_scheme_that_is_not_supported_lists_those_that_are(url: str) -> None:
    message = await failure(url)
    assert "not supported" in message
    assert "rtsp" in message
    assert "srt" in message


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("401 Unauthorized", "user name or password"),
        ("403 Forbidden", "403"),
        ("404 Not Found", "check the path"),
        ("410 Gone", "server answered"),
        ("503 Service Unavailable", "server answered"),
    ],
)
async def test_a_server_that_refuses(status: str, expected: str) -> None:
    with Server(lambda peer: peer.respond(status, "Content-Length: 0")) as server:
        assert expected in await failure(server.url("http"))


async def test_a_server_that_says_nothing() -> None:
    with Server(Peer.stall) as server:
        message = await failure(server.url("http"), open_timeout_s=0.3)
    assert "nothing came within 0.3 s" in message


async def test_what_is_not_video() -> None:
    def script(peer: Peer) -> None:
        peer.accept("text/plain")
        peer.send(b"The quick brown fox jumps over the lazy dog. " * 1000)

    with Server(script) as server:
        assert "before there was any video" in await failure(server.url("http"))
    with Server(script, http=False) as server:
        assert "not video in a format" in await failure(server.url("tcp"))


async def test_a_stream_of_sound_alone(tmp_path: Path) -> None:
    from tests.support.clips import encode_audio

    with av.open(str(tmp_path / "sound.ts"), "w") as container:
        stream = container.add_stream("aac", rate=48_000, layout="mono")
        for packet in encode_audio(stream, 1.0):
            container.mux(packet)
    with serve_folder(tmp_path) as url:
        message = await failure(f"{url}/sound.ts")
    assert "no video that can be decoded, only audio" in message


async def test_a_sender_cannot_make_us_open_other_files(tmp_path: Path) -> None:
    make_clip(tmp_path / "secret.ts", frames=5)
    playlist = f"#EXTM3U\n#EXTINF:1,\nfile://{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n"

    def over_tcp(peer: Peer) -> None:
        peer.send(playlist.encode())

    def over_http(peer: Peer) -> None:
        peer.accept("application/vnd.apple.mpegurl")
        peer.send(playlist.encode())

    with Server(over_tcp, http=False) as server:
        await failure(server.url("tcp"))
    with Server(over_http) as server:
        await failure(server.url("http", "list.m3u8"))


# ---- credentials ----

SECRETS = ("s3cret", "t0ken", "alice")


async def test_credentials_are_sent_and_never_shown(
    media: Media, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []

    def script(peer: Peer) -> None:
        if not peer.authorised("alice", "s3cret") or "token=t0ken" not in peer.path:
            peer.respond("401 Unauthorized", 'WWW-Authenticate: Basic realm="x"')
            return
        peer.accept()
        peer.play(media.chunks, until_s=0.5)

    with Server(script) as server:
        good = server.url("http", "live?token=t0ken", user="alice:s3cret")
        source = StreamSource(good)
        async with source:
            info = await source.open()
            shown += [info.name, repr(info), repr(source)]
            await receive(source, 3)
            shown += [thread.name for thread in threading.enumerate()]
            server.kill()
            with anyio.move_on_after(0.5):
                while True:
                    await source.receive()
            shown += source.notices
        shown.append(repr(source))

    for status in ("401 Unauthorized", "404 Not Found", "500 Oops"):
        with Server(lambda peer, status=status: peer.respond(status)) as server:  # type: ignore[misc]
            for url in (
                server.url("http", "live?token=t0ken", user="alice:s3cret"),
                server.url("rtsp", "live?token=t0ken", user="alice:s3cret"),
            ):
                with pytest.raises(SourceOpenError) as caught:
                    await StreamSource(url).open()
                shown.append("".join(traceback.format_exception(caught.value)))
    refused = f"tcp://alice:s3cret@127.0.0.1:{free_port()}/x?password=t0ken"
    with pytest.raises(SourceOpenError) as caught:
        await StreamSource(refused).open()
    shown.append("".join(traceback.format_exception(caught.value)))

    everything = "\n".join([*shown, caplog.text])
    assert "127.0.0.1" in everything
    for secret in SECRETS:
        assert secret not in everything
