"""Static int8 quantisation for XNNPACK.

Weights are symmetric with a scale for each channel, activations affine with a scale for each
tensor, found from histograms over the pictures (post-training quantisation of torchao's PT2E flow).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    *,
    products_only: bool = False,
    on_step: Callable[[str], None] = no_step,
) -> nn.Module:
    """Return an int8 version of a module; the module itself stays as it is.

    Args:
        module: In evaluation mode; takes one float32 tensor.
        example: An input.
        pictures: Typical inputs, normalised as the module takes them.
        products_only: Whether only convolutions and linear layers become int8, and not those that
            normalisation layers are written out with: sums and norms of transformers have outliers
            that 8 bits do not hold beside the rest. The weights are nearly all in the products.
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
            quantizer = _only_products() if products_only else XNNPACKQuantizer()
            prepared = prepare_pt2e(graph, quantizer.set_global(config))
            for count, picture in enumerate(pictures, 1):
                on_step(f"calibrating int8: picture {count} of {len(pictures)}")
                prepared(picture)
            converted: nn.Module = convert_pt2e(prepared)
            _give_each_product_its_weights(converted)
    except Exception as error:
        raise ModelError(
            f"cannot quantise the module: {type(error).__name__}: {first_line(error)}: "
            "export it in float32"
        ) from error
    return converted


def _give_each_product_its_weights(module: Any) -> None:
    """Repeat what makes real numbers of int8 weights for each layer that shares them.

    XNNPACK takes it together with the layer, and leaves it outside where another one needs it too.
    """
    unpack = torch.ops.quantized_decomposed.dequantize_per_channel.default
    for node in list(module.graph.nodes):
        if node.target is not unpack:
            continue
        for user in list(node.users)[1:]:
            with module.graph.inserting_before(user):
                user.replace_input_with(node, module.graph.node_copy(node))
    module.recompile()


_PRODUCTS = {
    torch.ops.aten.conv2d.default,
    torch.ops.aten.linear.default,
    # Fused with the product before it.
    torch.ops.aten.relu.default,
    torch.ops.aten.relu_.default,
}
_NORMS = ("LayerNorm", "GroupNorm")


def _only_products() -> Any:
    """Return a quantiser for convolutions and linear layers."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    class Products(XNNPACKQuantizer):  # type: ignore[misc]  # torchao is read without types
        def transform_for_annotation(self, model: Any) -> Any:
            # It makes floats of the scalars of sums, of indices too: nothing here needs that.
            return model

        def annotate(self, model: Any) -> Any:
            super().annotate(model)
            for node in model.graph.nodes:
                # What only passes values on is annotated like what is before it, also where its
                # values are no floats.
                if not _is_product(node):
                    node.meta.pop(Q_ANNOTATION_KEY, None)
            return model

    return Products().set_filter_function(_is_product)


def _is_product(node: Any) -> bool:
    if node.target not in _PRODUCTS:
        return False
    # Its module and all that this one is in: name -> (path, type).
    within = node.meta.get("nn_module_stack", {}).values()
    return not any(str(kind).endswith(_NORMS) for _, kind in within)
