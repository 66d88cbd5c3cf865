"""SemanticResult: what a semantic model says of every pixel of a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, overload

from typing_extensions import TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["SemanticResult"]

# Contravariant: who may be asked for any label may be asked for these few.
AskedT = TypeVar("AskedT", bound=str, default=Any, contravariant=True)


class SemanticResult(Generic[AskedT]):
    """The class of each pixel, and the probabilities of the classes that were asked for.

    A mapping from ``ARGMAX`` and the labels, in any case, to arrays; the labels are attributes too:
    ``result["PERSON"]``, ``result[VocLabel.PERSON]`` and ``result.PERSON`` are the same.

    Args:
        argmax: (H, W) int32.
        masks: Label -> (H, W) float32 in [0, 1].
        labels: All labels of the model.
        model_ms: Time in the model process, in milliseconds.
        inference_ms: The model's own part of that.

    Attributes:
        labels: All labels of the model: ``labels[i]`` is the name of index i.
        model_ms: Time in the model process, in milliseconds.
        inference_ms: The model's own part of that; all else is what streamseg adds to it.
    """

    __slots__ = ("_arrays", "inference_ms", "labels", "model_ms")

    def __init__(
        self,
        argmax: NDArray[np.int32],
        masks: Mapping[str, NDArray[np.float32]],
        *,
        labels: tuple[str, ...],
        model_ms: float,
        inference_ms: float,
    ) -> None:
        self._arrays: dict[str, NDArray[Any]] = {"ARGMAX": argmax, **masks}
        self.labels = labels
        self.model_ms = model_ms
        self.inference_ms = inference_ms

    @property
    def ARGMAX(self) -> NDArray[np.int32]:
        """(H, W) int32: the index of the most probable class, the lowest one on ties."""
        return self._arrays["ARGMAX"]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of all arrays in pixels."""
        return (self.ARGMAX.shape[0], self.ARGMAX.shape[1])

    # No label is called so.
    @overload
    def __getitem__(  # type: ignore[overload-overlap]
        self, label: Literal["ARGMAX"]
    ) -> NDArray[np.int32]: ...
    @overload
    def __getitem__(self, label: AskedT) -> NDArray[np.float32]: ...
    def __getitem__(self, label: str) -> NDArray[Any]:
        found = self._find(label)
        if found is None:
            raise KeyError(f"{label} was not asked for, only {', '.join(self._arrays)}")
        return found

    def __getattr__(self, label: str) -> NDArray[np.float32]:
        found = None if label.startswith("_") else self._find(label)
        if found is None:
            raise AttributeError(f"{label} was not asked for, only {', '.join(self.keys())}")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, label: object) -> bool:
        return isinstance(label, str) and self._find(label) is not None

    def keys(self) -> tuple[str, ...]:
        """``ARGMAX``, and the labels that were asked for, as the model spells them."""
        return tuple(self._arrays)

    def values(self) -> tuple[NDArray[Any], ...]:
        """The arrays, in the order of ``keys``."""
        return tuple(self._arrays.values())

    def items(self) -> tuple[tuple[str, NDArray[Any]], ...]:
        """Names and arrays, in the order of ``keys``."""
        return tuple(self._arrays.items())

    def __repr__(self) -> str:
        height, width = self.size
        return f"SemanticResult({height}x{width}: {', '.join(self._arrays)})"

    def _find(self, label: str) -> NDArray[Any] | None:
        found = self._arrays.get(label)
        if found is None:
            wanted = label.upper()
            found = next((self._arrays[own] for own in self._arrays if own.upper() == wanted), None)
        return found


# Not inherited: the labels that are there are a part of the type.
Mapping.register(SemanticResult)
