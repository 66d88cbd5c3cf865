"""What the process that fetches says becomes errors; its own process is tested with a mirror."""

from __future__ import annotations

import pytest

from streamseg.downloads.hub import _error
from streamseg.downloads.locations import HubFile
from streamseg.errors import DownloadError, DownloadInterruptedError, OfflineError

FILE = HubFile("org/repo", "x.pte", "v1")


@pytest.mark.parametrize(
    ("problem", "kind", "message"),
    [
        ("gated", DownloadError, "ask for it on its page, then log in: hf auth login"),
        ("offline", OfflineError, "unset STREAMSEG_OFFLINE"),
        ("http 401", DownloadError, "log in: hf auth login"),
        ("http 429", DownloadError, r"asked too often \(429\)"),
        ("http 503", DownloadError, r"refuses it \(503\); try again later"),
        ("disk", DownloadError, "the detail; make room, or set HF_HOME"),
        ("size", DownloadError, "the detail; check the address"),
        ("connection", DownloadInterruptedError, "the detail; check the connection, HTTPS_PROXY"),
        ("other", DownloadInterruptedError, "cannot be fetched: the detail"),
    ],
)
def test_each_problem_says_what_to_try(
    problem: str, kind: type[DownloadError], message: str
) -> None:
    error = _error(FILE, problem, "the detail")
    assert type(error) is kind
    with pytest.raises(kind, match=message):
        raise error
    assert str(error).startswith("hf://org/repo@v1/x.pte: ")
