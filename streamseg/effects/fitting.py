"""Fitter: brings a picture of any kind into the size, format and colour of another.

Used for backgrounds: turned upright, cut or bordered, scaled and converted in one filter graph,
without a round trip through RGB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamseg.effects.formats import PREMULTIPLIED, has_alpha
from streamseg.effects.graph import FilterGraph, Port
from streamseg.effects.planes import (
    copy_planes,
    fill,
    neutral_levels,
    new_picture,
    planes_of,
    set_colour,
)
from streamseg.frames import Colour
from streamseg.side_data import safe_side_data

if TYPE_CHECKING:
    import av

__all__ = ["Fitter"]

_MATRICES = {
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    9: "bt2020nc",
    10: "bt2020c",
}


class Fitter:
    """Turns upright, scales and converts pictures of one source; keeps the last result.

    Args:
        fit: ``cover`` or ``contain``.
        scaler: Flags of swscale.
    """

    def __init__(self, fit: str, *, scaler: str) -> None:
        self._fit = fit
        self._scaler = scaler
        self._source: av.VideoFrame | None = None
        self._port: Port | None = None
        self._graph: FilterGraph | None = None
        self._chain: list[tuple[str, str]] = []
        self._picture: av.VideoFrame | None = None
        self._rotation: int | None = None
        self._turns: list[tuple[str, str]] = []

    def fit(self, source: av.VideoFrame, like: av.VideoFrame) -> av.VideoFrame:
        """Return the source in the size, format and colour of another picture."""
        port = Port.of(like)
        if self._picture is not None and source is self._source and port == self._port:
            return self._picture
        plain = _plain(source)
        if source.rotation != self._rotation:  # mirrored ones aside, it tells when to look again
            self._rotation, self._turns = source.rotation, _turns(source)
        turns = self._turns
        sideways = any(name == "transpose" for name, _ in turns)
        width, height = (source.height, source.width) if sideways else (source.width, source.height)
        chain, left, top = self._layout(width, height, like)
        chain = [*_opaque(source), *turns, *chain]
        if self._graph is None or chain != self._chain:
            self._graph, self._chain = FilterGraph(chain), chain
        fitted = self._graph.process(plain)
        if self._picture is None or port != self._port:
            self._picture = new_picture(like)
        _paste(fitted, self._picture, left, top)
        self._source, self._port = source, port
        return self._picture

    def close(self) -> None:
        """Release the graph and the picture."""
        self._graph = self._picture = self._source = self._port = None

    def _layout(
        self, width: int, height: int, like: av.VideoFrame
    ) -> tuple[list[tuple[str, str]], int, int]:
        """Return the filters that size an upright source, and where the result belongs."""
        left = top = 0
        wide, high = like.width, like.height
        chain = []
        if self._fit == "cover":
            kept_w = min(width, max(1, round(height * wide / high)))
            kept_h = min(height, max(1, round(width * high / wide)))
            chain.append(("crop", f"{kept_w}:{kept_h}"))
        else:
            # Multiples of 4, so that the chroma of every subsampling falls on whole samples
            fit_w, fit_h = round(width * high / height), round(height * wide / width)
            if fit_w < wide:
                left = max(0, (wide - fit_w) // 8 * 4)
                wide -= 2 * left
            elif fit_h < high:
                top = max(0, (high - fit_h) // 8 * 4)
                high -= 2 * top
        colour = Colour.of(like).resolved(like.height, like.format.name)
        matrix = _MATRICES.get(colour.space, "smpte170m")
        span = "pc" if colour.range == 2 else "tv"
        chain.append(
            (
                "scale",
                f"{wide}:{high}:flags={self._scaler}:out_color_matrix={matrix}:out_range={span}",
            )
        )
        chain.append(("format", like.format.name.replace("yuvj", "yuv")))
        return chain, left, top


def _plain(source: av.VideoFrame) -> av.VideoFrame:
    """Return a decoded picture without a deprecated format and with matrix and range filled in."""
    name = source.format.name
    if name.startswith("yuvj"):
        plain = new_picture(source, name.replace("yuvj", "yuv"))
        copy_planes(source, plain)
        source = plain
    elif source.format.is_rgb or name.startswith(("pal", "gray", "ya", "mono")):
        return source
    set_colour(source, Colour.of(source).resolved(source.height, name))
    return source


def _opaque(source: av.VideoFrame) -> list[tuple[str, str]]:
    """Return the filters that lay a picture with transparency over black."""
    return PREMULTIPLIED[source.format.components[0].bits > 8] if has_alpha(source) else []


def _turns(source: av.VideoFrame) -> list[tuple[str, str]]:
    """Return the filters that turn and mirror a picture upright (EXIF, display matrix).

    Angles between quarter turns go to the nearest one.
    """
    matrix = safe_side_data(source, ("DISPLAYMATRIX",)).get("DISPLAYMATRIX")
    if matrix is None:
        return []
    # A stored point (x, y) is shown at (ax + cy, bx + dy), libavutil/display.h.
    a, b, _, c, d = (int(value) for value in np.frombuffer(matrix, np.int32)[:5])
    swap = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if swap else (a, d)
    if not across or not down:
        return []
    turns = [("transpose", "cclock_flip")] if swap else []  # cclock_flip mirrors at the diagonal
    turns += [("hflip", "")] * (across < 0) + [("vflip", "")] * (down < 0)
    return turns


def _paste(source: av.VideoFrame, target: av.VideoFrame, left: int, top: int) -> None:
    """Copy a picture into another of the same sampling; the rest becomes black."""
    if left or top:
        fill(target, neutral_levels(target))
    views = zip(planes_of(source), planes_of(target), strict=True)
    luma = planes_of(target)[0].shape
    for plane, whole in views:
        parts_x = next(n for n in (1, 2, 4) if -(-luma[1] // n) == whole.shape[1])
        parts_y = next(n for n in (1, 2, 4) if -(-luma[0] // n) == whole.shape[0])
        x, y = left // parts_x, top // parts_y
        whole[y : y + plane.shape[0], x : x + plane.shape[1]] = plane
