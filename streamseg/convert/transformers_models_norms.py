"""Normalisation layers in operators that XNNPACK runs.

XNNPACK has neither layer nor group normalisation. ExecuTorch's own kernels compute the variance as
the mean of the squares less the square of the mean, which loses all digits where values differ
little beside their mean: on an even surface MaskFormer's masks were 0.02 off, instead of 0.0001.
Written out, with the mean taken off first, it is exact, in one delegate with what is around it, and
three times as fast.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["write_out_norms"]


def write_out_norms(model: nn.Module) -> None:
    """Give a model's layers another way to compute the same; weights and names stay.

    Modules are changed in place, not exchanged: some models hold them in plain lists too.

    Args:
        model: Its ``nn.LayerNorm`` over one axis and ``nn.GroupNorm`` over pictures are changed.
    """
    for module in list(model.modules()):
        if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1:
            width = module.normalized_shape[0]
            # A product with it is the mean: XNNPACK has means over two axes of pictures only.
            mean = torch.full((1, width), 1.0 / width)
            module.register_buffer("averaging", mean, persistent=False)
            module.forward = MethodType(_layer_norm, module)
        elif type(module) is nn.GroupNorm:
            module.forward = MethodType(_group_norm, module)


def _layer_norm(self: nn.LayerNorm, values: Tensor) -> Tensor:
    centred = values - functional.linear(values, self.averaging)
    variance = functional.linear(centred * centred, self.averaging)
    normal = centred * torch.rsqrt(variance + self.eps)
    if self.weight is not None:
        normal = normal * self.weight
    return normal if self.bias is None else normal + self.bias


def _group_norm(self: nn.GroupNorm, values: Tensor) -> Tensor:
    if values.ndim != 4:
        return functional.group_norm(values, self.num_groups, self.weight, self.bias, self.eps)
    count, channels, height, width = values.shape
    groups = values.reshape(count, self.num_groups, channels // self.num_groups * height, width)
    groups = groups - groups.mean((-2, -1), keepdim=True)
    variance = (groups * groups).mean((-2, -1), keepdim=True)
    normal = (groups * torch.rsqrt(variance + self.eps)).reshape(values.shape)
    if self.weight is not None:
        normal = normal * self.weight.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1)
    return normal
