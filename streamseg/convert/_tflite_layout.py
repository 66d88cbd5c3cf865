"""Where a file's axes are in the rebuilt module.

The file's pictures are [N, H, W, C]; the module's are [N, C, H, W], as ExecuTorch's back ends expect.
Tensors of another rank have the same axes in both.
"""

from collections.abc import Sequence

from torch import Tensor

_TO_MODULE, _TO_FILE = (0, 3, 1, 2), (0, 2, 3, 1)
PICTURE_RANK = 4


def module_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the module's shape of a tensor that has this one in the file."""
    return tuple(shape[axis] for axis in module_order(len(shape)))


def module_axis(axis: int, rank: int) -> int:
    """Return where an axis of the file, which may count from the end, is in the module."""
    return module_order(rank).index(axis % rank)


def module_order(rank: int) -> tuple[int, ...]:
    """Return the file's axes in the module's order."""
    return _TO_MODULE if rank == PICTURE_RANK else tuple(range(rank))


def to_file(values: Tensor) -> Tensor:
    """Return a tensor of the module with the file's axes."""
    return values.permute(_TO_FILE) if values.ndim == PICTURE_RANK else values


def to_module(values: Tensor) -> Tensor:
    """Return a tensor of the file with the module's axes."""
    return values.permute(_TO_MODULE) if values.ndim == PICTURE_RANK else values


def reshape(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Give a tensor of the module another shape of the file; the order of values is the file's."""
    return to_module(to_file(values).reshape(tuple(shape)))
