from __future__ import annotations

from pathlib import Path

import pytest

from streamseg.downloads.locations import (
    HubFile,
    LocalFile,
    WebFile,
    address_text,
    is_remote,
    parse_location,
)
from streamseg.errors import DownloadError


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://org/repo/x.pte", HubFile("org/repo", "x.pte")),
        ("hf://org/repo@v0.9.0/a/b/x.pte", HubFile("org/repo", "a/b/x.pte", "v0.9.0")),
        ("hf://org/repo@refs%2Fpr%2F1/x.pte", HubFile("org/repo", "x.pte", "refs/pr/1")),
        ("HF://org/repo/x.pte", HubFile("org/repo", "x.pte")),
        (
            "https://huggingface.co/org/repo/resolve/v0.9.0/xnnpack/x.pte?download=true",
            HubFile("org/repo", "xnnpack/x.pte", "v0.9.0"),
        ),
        ("https://hf.co/org/repo/blob/main/x.pte", HubFile("org/repo", "x.pte")),
        ("https://huggingface.co/org/repo/resolve/refs%2Fpr%2F1/a%20b.pte",
         HubFile("org/repo", "a b.pte", "refs/pr/1")),
        # Not of a model repository, or not over TLS: what any web server has.
        ("https://huggingface.co/datasets/org/repo/resolve/main/x.bin",
         WebFile("https://huggingface.co/datasets/org/repo/resolve/main/x.bin")),
        ("http://huggingface.co/org/repo/resolve/main/x.pte",
         WebFile("http://huggingface.co/org/repo/resolve/main/x.pte")),
        ("https://huggingface.co.example.org/org/repo/resolve/main/x.pte",
         WebFile("https://huggingface.co.example.org/org/repo/resolve/main/x.pte")),
        ("https://huggingface.co/org/repo/resolve/main/../../x.pte",
         WebFile("https://huggingface.co/org/repo/resolve/main/../../x.pte")),
        ("https://huggingface.co/org/repo/resolve/..%2Fx/x.pte",
         WebFile("https://huggingface.co/org/repo/resolve/..%2Fx/x.pte")),
        ("https://huggingface.co/org/repo/resolve/main/a%0Ab.pte",
         WebFile("https://huggingface.co/org/repo/resolve/main/a%0Ab.pte")),
        ("file:///tmp/a%20b.pte", LocalFile(Path("/tmp/a b.pte"))),
        ("file://localhost/tmp/x.pte", LocalFile(Path("/tmp/x.pte"))),
        ("models/x.pte", LocalFile(Path("models/x.pte"))),
        ("/tmp/http.pte", LocalFile(Path("/tmp/http.pte"))),
    ],
)  # fmt: skip
def test_addresses(text: str, expected: object) -> None:
    assert parse_location(text) == expected


def test_a_mirror_has_the_files_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror:8000/hub/")
    file = parse_location("http://mirror:8000/hub/org/repo/resolve/v1/x.pte")
    assert file == HubFile("org/repo", "x.pte", "v1")
    assert isinstance(parse_location("http://mirror:8001/org/repo/resolve/v1/x.pte"), WebFile)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://host/x.pte", "cannot be fetched; use http, https, hf, file, or a path"),
        ("https:///x.pte", "not a valid address"),
        ("https://host:port/x.pte", "not a valid address"),
        ("https://[::1/x.pte", "not a valid address"),
        ("https://host/a b.pte", "not a valid address"),
        ("hf://org/x.pte", r"write hf://org/repo\[@revision\]/path"),
        ("hf://org/repo/../../x.pte", "not a file of the Hub"),
        ("hf://org/repo/", "not a file of the Hub"),
        ("hf://../repo/x.pte", "not a file of the Hub"),
        ("hf://org/repo@..%2F..%2Fx/y.pte", "not a file of the Hub"),
        ("hf://org/repo@%2Fetc%2Fx/y.pte", "not a file of the Hub"),
        ("hf://org/repo/a\nb.pte", "not a file of the Hub"),
        ("file://server/x.pte", "files of other machines need http or https"),
    ],
)
def test_what_is_no_address(text: str, message: str) -> None:
    with pytest.raises(DownloadError, match=message) as caught:
        parse_location(text)
    assert "\n" not in str(caught.value)


def test_credentials_are_not_shown() -> None:
    file = parse_location("https://me:pa55word@host/x.pte?token=s3cret")
    for text in (str(file), repr(file)):
        assert "pa55word" not in text
        assert "s3cret" not in text
    with pytest.raises(DownloadError) as caught:
        parse_location("ftp://me:pa55word@host/x.pte")
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host/a/x.pte?y=1", "x.pte"),
        ("https://host/a/", "file"),
        ("https://host", "file"),
        ("https://host/a%2F..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("https://host/.bashrc", "bashrc"),
        ("https://host/..", "file"),
        ("https://host/m%C3%B6del%0A.pte", "m_del_.pte"),
    ],
)
def test_names_are_fit_for_a_file_system(url: str, name: str) -> None:
    assert WebFile(url).name == name


def test_long_names_are_cut_and_keep_their_suffix() -> None:
    name = WebFile(f"https://host/{'x' * 500}.pte").name
    assert len(name) <= 120
    assert name.endswith("x.pte")
    assert len(WebFile(f"https://host/{'x' * 500}").name) <= 120


def test_an_address_that_was_made_a_path_is_one_again() -> None:
    for url in ("https://me:pw@host/a/x.pte", "hf://org/repo@v1/x.pte", "HTTP://host/x"):
        assert address_text(Path(url)) == address_text(url) == url
    for text in ("a/x.pte", "/https:/x", "https.pte", "c:/x.pte"):
        assert address_text(Path(text)) == text
    assert address_text("https:/x") == "https:/x"


def test_what_is_remote() -> None:
    assert is_remote("HTTPS://host/x")
    assert is_remote("hf://org/repo/x")
    assert not is_remote("file:///x")
    assert not is_remote("http.pte")


def test_what_others_can_change_on_the_way() -> None:
    assert WebFile("https://host/x.pte").is_protected
    assert WebFile("HTTPS://host/x.pte").is_protected
    assert WebFile("http://127.0.0.1:80/x.pte").is_protected
    assert not WebFile("http://host/x.pte").is_protected
    assert not WebFile("http://localhost.example.org/x.pte").is_protected
