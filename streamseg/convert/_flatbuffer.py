"""A bounds-checked reader of FlatBuffers.

Every offset, length and element in the file is untrusted: it is checked against the
buffer before it is followed, and what does not fit is a `ModelError`. The reader follows
only the references that its caller asks for and never recurses, so a cycle in a file
cannot hold it.

Source: FlatBuffers, "Internals": a table starts with a signed offset back to its vtable;
the vtable is uint16 size, uint16 table size, then one uint16 per field, 0 where the field
is absent; vectors and strings are a uint32 count and the elements. All little-endian.
"""

import struct
from collections.abc import Iterator

from streamseg.errors import ModelError


class Table:
    """One table inside a buffer; fields are numbered as the schema declares them.

    Args:
        data: The whole file.
        position: Offset in bytes of the table.

    Raises:
        ModelError: The table or its vtable lies outside of the data.
    """

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position
        self._vtable = position - _unpack(data, "<i", position)
        self._vtable_size = _unpack(data, "<H", self._vtable)

    @classmethod
    def root(cls, data: bytes, identifier: bytes) -> "Table":
        """Return the root table of a file that carries the four-byte identifier."""
        if len(data) < 8 or data[4:8] != identifier:
            raise ModelError(
                f"file identifier is {data[4:8]!r}, expected {identifier!r}: "
                "give a file of the right format"
            )
        return cls(data, _unpack(data, "<I", 0))

    def number(self, field: int, kind: str, default: int = 0) -> int:
        """Return an integer or enumeration; `kind` is a `struct` letter such as "b"."""
        at = self._find(field)
        return default if at is None else _unpack(self._data, f"<{kind}", at)

    def real(self, field: int, default: float) -> float:
        """Return a float32."""
        at = self._find(field)
        return default if at is None else float(_unpack(self._data, "<f", at))

    def table(self, field: int) -> "Table | None":
        """Return a sub-table, or None where the field is absent."""
        at = self._find(field)
        return None if at is None else Table(self._data, self._follow(at))

    def tables(self, field: int, limit: int) -> Iterator["Table"]:
        """Yield the tables of a vector of tables, none where the field is absent."""
        start, count = self._vector(field, 4)
        if count > limit:
            raise ModelError(
                f"a vector has {count} tables, expected at most {limit}: use a smaller model"
            )
        for i in range(count):
            yield Table(self._data, self._follow(start + 4 * i))

    def numbers(self, field: int, kind: str, limit: int) -> tuple[int, ...]:
        """Return a vector of integers; `kind` is a `struct` letter such as "i"."""
        start, count = self._vector(field, struct.calcsize(f"<{kind}"))
        if count > limit:
            raise ModelError(
                f"a vector has {count} numbers, expected at most {limit}: use a smaller model"
            )
        values: tuple[int, ...] = struct.unpack_from(f"<{count}{kind}", self._data, start)
        return values

    def raw(self, field: int) -> bytes:
        """Return a vector of bytes or a string; empty where the field is absent."""
        start, count = self._vector(field, 1)
        return self._data[start : start + count]

    def _find(self, field: int) -> int | None:
        slot = 4 + 2 * field
        if slot + 2 > self._vtable_size:
            return None
        offset = _unpack(self._data, "<H", self._vtable + slot)
        return self._position + offset if offset else None

    def _follow(self, at: int) -> int:
        return at + _unpack(self._data, "<I", at)

    def _vector(self, field: int, item_size: int) -> tuple[int, int]:
        at = self._find(field)
        if at is None:
            return 0, 0
        start = self._follow(at)
        count = _unpack(self._data, "<I", start)
        if start + 4 + count * item_size > len(self._data):
            raise ModelError(
                f"file is damaged: a vector of {count} items of {item_size} bytes at byte "
                f"{start} runs past the end ({len(self._data)} bytes): fetch the file again"
            )
        return start + 4, count


def _unpack(data: bytes, form: str, at: int) -> int:
    # struct counts a negative offset from the end, which a damaged file must not use.
    if at < 0 or at + struct.calcsize(form) > len(data):
        raise ModelError(
            f"file is damaged: a reference to byte {at} lies outside of its {len(data)} bytes: "
            "fetch the file again"
        )
    value: int = struct.unpack_from(form, data, at)[0]
    return value
