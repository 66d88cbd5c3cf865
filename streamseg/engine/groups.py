"""What a task group failed of, in one error."""

from __future__ import annotations

from typing import NoReturn

from streamseg.errors import StreamsegError

__all__ = ["reraise"]


def reraise(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise what a task group failed of: an expected error if there is one, else the first."""
    leaves = _leaves(group)
    leaf = next((leaf for leaf in leaves if isinstance(leaf, StreamsegError)), leaves[0])
    raise leaf from leaf.__cause__


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for exc in group.exceptions:
        found.extend(_leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc])
    return found
