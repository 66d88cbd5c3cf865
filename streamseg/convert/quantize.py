"""Static int8 quantisation for XNNPACK.

Weights are symmetric with a scale for each channel, activations affine with a scale for each
tensor, found from histograms over the pictures (post-training quantisation of torchao's PT2E flow).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from streamseg.convert._lowering import first_line, no_step
from streamseg.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

__all__ = ["quantize_module"]


def quantize_module(
    module: nn.Module,
    example: Tensor,
    pictures: Sequence[Tensor],
    on_step: Callable[[str], None] = no_step,
) -> nn.Module:
    """Return an int8 version of a module; the module itself stays as it is.

    Args:
        module: In evaluation mode; takes one float32 tensor.
        example: An input.
        pictures: Typical inputs, normalised as the module takes them.
        on_step: Called with a few words for each step.

    Raises:
        ModelError: If there are no pictures, or the module cannot be quantised.

    Source: PyTorch, "PyTorch 2 Export Post Training Quantization"; ExecuTorch, "XNNPACK
    Quantization".
    """
    if not pictures:
        raise ModelError(
            "int8 needs pictures to calibrate with, none were given: "
            "give a folder of typical pictures"
        )
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    try:
        with torch.no_grad():
            on_step("preparing int8")
            graph = torch.export.export(module, (example,), strict=False).module()
            config = get_symmetric_quantization_config(is_per_channel=True)
            prepared = prepare_pt2e(graph, XNNPACKQuantizer().set_global(config))
            for count, picture in enumerate(pictures, 1):
                on_step(f"calibrating int8: picture {count} of {len(pictures)}")
                prepared(picture)
            converted: nn.Module = convert_pt2e(prepared)
    except Exception as error:
        raise ModelError(
            f"cannot quantise the module: {type(error).__name__}: {first_line(error)}: "
            "export it in float32"
        ) from error
    return converted
