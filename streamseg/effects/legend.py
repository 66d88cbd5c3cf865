"""Legend: which colour is what, in a corner of the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg.effects.colours import RGB
from streamseg.effects.panel import Panel, PanelLine

if TYPE_CHECKING:
    from collections.abc import Sequence

    import av

    from streamseg.effects.regions import Region

__all__ = ["Legend", "display_name"]

_MOST = 12
_LASTS = 15  # frames that an entry stays when its region is gone: a legend must not flicker
_LEAST_SHARE = 5e-4  # of the picture; less is not worth a line
_LEAST_COVER = 0.5


def display_name(label: str) -> str:
    """Return a label as people write it: ``DINING_TABLE`` becomes ``dining table``."""
    text = label.replace("_", " ").strip()
    return text.lower() if text.upper() == text else text


class Legend:
    """Draws a line for each region, and remembers regions for some frames."""

    def __init__(self) -> None:
        self._panel = Panel("bottom-left")
        self._seen: dict[
            str, tuple[RGB, int]
        ] = {}  # bounded: entries that are not seen are dropped

    def entries(self, regions: Sequence[Region], index: int) -> tuple[tuple[str, RGB], ...]:
        """Return name and colour of what is there, or was until a moment ago, by name.

        Args:
            regions: Those of this frame.
            index: Of the frame; one that goes back begins anew.
        """
        self._seen = {
            name: entry for name, entry in self._seen.items() if 0 <= index - entry[1] <= _LASTS
        }
        for region in regions:
            covered = float((region.mask >= _LEAST_COVER).mean())
            if covered >= _LEAST_SHARE:
                self._seen[region.name] = (region.rgb, index)
        return tuple((name, self._seen[name][0]) for name in sorted(self._seen))

    def draw(self, video: av.VideoFrame, entries: Sequence[tuple[str, RGB]]) -> None:
        """Draw entries, at most 12 and a word on how many more there are.

        Args:
            video: Planar YUV, ours to write into.
            entries: Name and colour each.
        """
        lines = [PanelLine(display_name(name), colour) for name, colour in entries[:_MOST]]
        if len(entries) > _MOST:
            lines.append(PanelLine(f"and {len(entries) - _MOST} more"))
        self._panel.draw(video, tuple(lines))

    def close(self) -> None:
        """Forget what was seen and let go of what is kept."""
        self._seen.clear()
        self._panel.close()
