"""``streamseg serve``: background effects in a browser, and rooms to publish to and to watch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamseg.cli.download_bar import DownloadBar
from streamseg.cli.options import (
    Background,
    Classes,
    ConfigFile,
    Contours,
    EffectName,
    Feather,
    Fit,
    Legend,
    ModelName,
    Quiet,
    Refine,
    Strength,
    Threads,
    Threshold,
    Workers,
    scenario_values,
)
from streamseg.errors import ConfigError

if TYPE_CHECKING:
    from streamseg.session.serve import ServeSession

__all__ = ["serve"]

_SERVER, _ROOM, _LIMITS, _WEBRTC = "Server", "Room", "Limits", "WebRTC"


def serve(
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on; 127.0.0.1 if left out. Others need a certificate, or "
            "--behind-proxy.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 8080 if left out.", rich_help_panel=_SERVER)
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate chain, PEM.", rich_help_panel=_SERVER)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Its private key, PEM.", rich_help_panel=_SERVER)
    ] = None,
    behind_proxy: Annotated[
        bool,
        typer.Option(
            "--behind-proxy",
            help="A reverse proxy in front of it has the certificate and tells who asks.",
            rich_help_panel=_SERVER,
        ),
    ] = False,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with a bearer token a line, of which every request needs one. The "
            "environment's STREAMSEG_TOKENS does the same.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Pages of this other origin may use the server. May be given several times.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Put this source into a room: what 'streamseg live' takes.",
            rich_help_panel=_ROOM,
        ),
    ] = None,
    room: Annotated[
        str | None, typer.Option(help="That room's name.", rich_help_panel=_ROOM)
    ] = None,
    loop: Annotated[
        bool, typer.Option("--loop", help="Play a file again and again.", rich_help_panel=_ROOM)
    ] = False,
    effect: EffectName = None,
    classes: Classes = None,
    contours: Contours = None,
    legend: Legend = False,
    strength: Strength = None,
    background: Background = None,
    fit: Fit = None,
    threshold: Threshold = None,
    feather: Feather = None,
    refine: Refine = None,
    model: ModelName = None,
    workers: Workers = None,
    threads: Threads = None,
    max_sessions: Annotated[
        int | None,
        typer.Option(help="Calls and publishers at once.", rich_help_panel=_LIMITS),
    ] = None,
    max_viewers: Annotated[
        int | None, typer.Option(help="Viewers of one room.", rich_help_panel=_LIMITS)
    ] = None,
    ice_server: Annotated[
        list[str] | None,
        typer.Option(
            help="A STUN server, stun:host:port; ones with credentials are configured in a file. "
            "May be given several times.",
            rich_help_panel=_WEBRTC,
        ),
    ] = None,
    prefer: Annotated[
        str | None,
        typer.Option(help="H264 or VP8 where a browser has both.", rich_help_panel=_WEBRTC),
    ] = None,
    config: ConfigFile = None,
    quiet: Quiet = False,
) -> None:
    """Serve a page that shows a person's camera with the background blurred or replaced.

    Publishers come to /whip/ROOM (WHIP), viewers to /whep/ROOM (WHEP). The effect here is what
    everybody begins with; the page changes it. Ctrl-C or SIGTERM ends all calls.

    **Examples**

        streamseg serve

        streamseg serve --effect replace --background beach.jpg --port 9000

        streamseg serve --source rtsp://camera.local/stream --room lobby

        streamseg serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem --token-file tokens
    """
    from streamseg.cli.running import run_async
    from streamseg.session.serve import run_server
    from streamseg.session.serve_config import load_serve_config

    given: dict[str, Any] = {
        "server.host": host,
        "server.port": port,
        "server.tls_cert": None if tls_cert is None else str(tls_cert),
        "server.tls_key": None if tls_key is None else str(tls_key),
        "server.behind_proxy": True if behind_proxy else None,
        "server.token_file": None if token_file is None else str(token_file),
        "server.origins": origin or None,
        **scenario_values(
            model=model,
            workers=workers,
            threads=threads,
            refine=refine,
            effect=effect,
            classes=classes,
            contours=contours,
            legend=legend,
            strength=strength,
            background=background,
            fit=fit,
            threshold=threshold,
            feather=feather,
        ),
        "limits.sessions": max_sessions,
        "limits.viewers": max_viewers,
        "webrtc.ice_server": [{"urls": [url]} for url in ice_server] if ice_server else None,
        "webrtc.prefer": prefer,
        "room": _rooms(source, room, loop=loop),
    }
    settings = load_serve_config(config, given)

    def tell(session: ServeSession) -> None:
        if not quiet:
            typer.echo(f"listening on {_shown(session.server.url)}", err=True)

    cancelled_by: list[int] = []
    with DownloadBar(settings.model.name, quiet=quiet) as bar:
        serving = run_server(
            settings, on_ready=tell, on_download=bar.show, on_cancel=cancelled_by.append
        )
        try:
            run_async(serving)
        except typer.Exit:
            if cancelled_by:  # the server has the signals, so `run_async` did not see which it was
                raise typer.Exit(128 + cancelled_by[0]) from None
            raise


def _shown(url: str) -> str:
    """Return an address that a browser can be given; that of all addresses is none."""
    from streamseg.webrtc.tuning_gathering import address_towards

    scheme, _, place = url.partition("://")
    host, _, port = place.rpartition(":")
    if host not in ("0.0.0.0", "[::]"):
        return url
    # Not a place of anybody: just to see from which address this machine would go out.
    if host == "[::]":
        own = address_towards("2001:db8::1")
        own = f"[{own}]" if own is not None and ":" in own else "localhost"
    else:
        own = address_towards("192.0.2.1") or "localhost"
    return f"{scheme}://{own}:{port} (all addresses of this machine)"


def _rooms(source: str | None, room: str | None, *, loop: bool) -> list[dict[str, Any]] | None:
    if (source is None) != (room is None):
        given, missing = ("--room", "--source") if source is None else ("--source", "--room")
        raise ConfigError(f"{given} is given without {missing}: both are needed to fill a room")
    if source is None:
        return None
    return [{"name": room, "source": {"uri": source, "loop": loop}}]
