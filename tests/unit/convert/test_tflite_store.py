"""Where converted programs are kept; the conversion itself is tested with real models."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamseg.convert._tflite_store import converted
from streamseg.downloads.cache import Cache
from streamseg.errors import ModelError

ADDRESS = "https://user:hunter2@example.org/x.tflite"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "source", [ADDRESS, Path(ADDRESS), ADDRESS.upper(), "hf://org/repo/x.tflite"], ids=str
)
async def test_a_file_of_another_machine_is_refused(source: str | Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="download it first") as caught:
        await converted(source, cache=Cache(tmp_path / "cache"))
    assert "hunter2" not in str(caught.value).lower()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.anyio
async def test_a_file_address_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "none.tflite"
    with pytest.raises(ModelError, match=f"cannot read {path}: No such file"):
        await converted(path.as_uri(), cache=Cache(tmp_path / "cache"))
