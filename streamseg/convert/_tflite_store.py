"""Programs that .tflite files were converted to, kept in the cache so that it is done once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread
from filelock import Timeout

from streamseg.convert.tflite import CONVERTER_VERSION, MAX_FILE_BYTES
from streamseg.downloads.cache import Cache
from streamseg.downloads.digest import sha256_in_thread
from streamseg.downloads.locations import LocalFile, address_text, parse_location
from streamseg.errors import ModelError
from streamseg.models.card import Model, load_card

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["converted"]

_WAIT_S = 0.2
_BOOT = (
    "import json, sys; path, *arguments = json.loads(sys.argv[1]); "
    "sys.path += [p for p in path if p not in sys.path]; "
    "from streamseg.convert._tflite_child import main; main(*arguments)"
)
_MAX_REPLY_BYTES = 1 << 20


async def converted(tflite_path: str | Path, *, cache: Cache | None = None) -> Model:
    """Return the program that a .tflite file becomes, converted now or before.

    It lies in the cache under the file's SHA-256, the version of this converter and that of
    ExecuTorch. Its card is made from the file's metadata, unless a card of the same name, with the
    suffix ``.toml``, lies beside the .tflite.

    Args:
        tflite_path: See ``load_tflite``; also as ``file://...``.
        cache: Where to keep it, the user's cache by default.

    Raises:
        ModelError: The file is on another machine, cannot be read or converted, or its program
            cannot be kept.
    """
    cache = cache or Cache()
    source = _local(tflite_path)
    sha256 = await _identity(source)
    version = f"{CONVERTER_VERSION}-{metadata.version('executorch')}"
    # The name is in messages and in the card; the folder alone says which file it is.
    folder = cache.converted_folder(sha256, version)
    program = folder / f"{source.stem or 'model'}.pte"
    own_card = source.with_suffix(".toml")
    async with _held(cache, folder):
        model = await to_thread.run_sync(_stored, program)
        if model is None:
            await _convert(source, program)
            model = await to_thread.run_sync(_stored, program)
    if model is None:
        raise ModelError(f"{program}: changed while it was written; try again")
    if await anyio.Path(own_card).exists():
        return Model(program, await to_thread.run_sync(load_card, own_card))
    return model


def _local(source: str | Path) -> Path:
    """Return the path of a file of this machine; nothing else is read."""
    location = parse_location(address_text(source))
    if not isinstance(location, LocalFile):
        raise ModelError(
            f"{location}: a .tflite is converted from a file of this machine only: download it "
            "first, and give its path"
        )
    return location.path


async def _identity(path: Path) -> str:
    """Return the SHA-256 of a file, which is what its program is kept under."""
    try:
        if (await anyio.Path(path).stat()).st_size > MAX_FILE_BYTES:
            raise ModelError(f"{path} is larger than {MAX_FILE_BYTES} bytes: use a smaller model")
        return await sha256_in_thread(path)
    except OSError as exc:
        raise ModelError(f"cannot read {path}: {exc.strerror or exc}: check the path") from exc


def _stored(program: Path) -> Model | None:
    """Return a program that is whole, with its card."""
    card_path = program.with_suffix(".toml")
    try:
        size = program.stat().st_size
        card = load_card(card_path) if card_path.exists() else None
    except (OSError, ModelError):
        return None
    return Model(program, card) if card is not None and card.size_bytes == size else None


@asynccontextmanager
async def _held(cache: Cache, folder: Path) -> AsyncIterator[None]:
    """Keep other processes and tasks from converting the same file meanwhile."""
    lock = cache.converted_lock(folder)

    def prepare() -> None:
        folder.mkdir(exist_ok=True)
        for left in folder.glob(".*"):  # by a conversion that was killed
            left.unlink(missing_ok=True)

    try:
        try:
            await to_thread.run_sync(lambda: folder.parent.mkdir(parents=True, exist_ok=True))
            while True:
                try:
                    # Not a blocking call in a thread: that could not be cancelled.
                    lock.acquire(blocking=False)
                    break
                except Timeout:
                    await anyio.sleep(_WAIT_S)
            # Not before: whoever removed the folder held the lock, too.
            await to_thread.run_sync(prepare)
        except OSError as exc:
            raise ModelError(
                f"cannot write to {folder}: {exc.strerror or exc}; "
                "set STREAMSEG_CACHE to another folder"
            ) from exc
        yield
    finally:
        lock.release()


async def _convert(source: Path, program: Path) -> None:
    arguments = [[path for path in sys.path if path], os.getpid(), str(source), str(program)]
    # -P: or a json.py in the user's current folder would be imported.
    command = [sys.executable, "-P", "-c", _BOOT, json.dumps(arguments)]
    try:
        process = await anyio.open_process(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except OSError as exc:
        raise ModelError(f"cannot start the conversion of {source}: {exc.strerror}") from exc
    output = bytearray()
    try:
        assert process.stdout is not None
        async for chunk in process.stdout:
            output += chunk
            del output[:-_MAX_REPLY_BYTES]  # the answer is its last line
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()
    try:
        reply = json.loads(bytes(output).rstrip().rpartition(b"\n")[2])
    except ValueError:
        reply = {}
    if not isinstance(reply, dict) or not reply.get("done"):
        error = reply.get("error") if isinstance(reply, dict) else None
        raise ModelError(
            str(error or f"converting {source} ended with exit code {process.returncode}")
        )
