"""A TensorFlow Lite graph as a torch module.

Every operator is run once without data (on torch's "meta" device) when it is built, and its
result's shape compared with the one the file declares: what is built is what the file says.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from streamseg.convert import _tflite_schema as schema
from streamseg.convert._tflite_arithmetic import Arithmetic
from streamseg.convert._tflite_builder import ADVICE, Builder, Step
from streamseg.convert._tflite_head import scores_of
from streamseg.convert._tflite_operators import OPERATORS, steps_of
from streamseg.errors import ModelError


class GraphModule(nn.Module):  # type: ignore[misc]  # torch is read without types
    """Runs a graph's operators in the file's order.

    Takes and returns float32 in NCHW. Values are dropped after their last use.

    Args:
        steps: In the order of execution.
        input_index: Of the tensor that the module takes.
        output_index: Of the tensor that it returns.
        arithmetic: What makes the real input integers, for a quantised one.
        scale: What the result's units stand for, where it is quantised.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        input_index: int,
        output_index: int,
        arithmetic: Arithmetic | None,
        scale: float | None,
    ) -> None:
        super().__init__()
        self._arithmetic = arithmetic
        self._scale = None
        if scale is not None:
            self._scale = nn.Parameter(torch.tensor([scale]), requires_grad=False)
        self.steps = nn.ModuleList(steps)
        self._input_index = input_index
        self._output_index = output_index
        last_use = {index: n for n, step in enumerate(steps) for index in step.inputs}
        self._release = [
            [i for i in sorted(set(step.inputs)) if last_use[i] == n and i != output_index]
            for n, step in enumerate(steps)
        ]

    def forward(self, image: Tensor) -> Tensor:
        if self._arithmetic is not None:
            image = self._arithmetic.leave(image)
        values = {self._input_index: image}
        for step, release in zip(self.steps, self._release, strict=True):
            assert isinstance(step, Step)
            values[step.output] = step(*(values[i] for i in step.inputs))
            for index in release:
                del values[index]
        result = values[self._output_index]
        return result if self._scale is None else result * self._scale


def build(parsed: schema.Schema) -> GraphModule:
    """Rebuild a graph that has one picture as input and one as output.

    Raises:
        ModelError: An operator, or an option of one, is not supported, or the graph does
            not fit together.
    """
    builder = Builder(parsed)
    operators, output = scores_of(parsed)
    unknown = sorted({op.name for op in operators} - OPERATORS)
    if unknown:
        raise ModelError(
            f"operators not supported: {', '.join(unknown)}: "
            "convert the original model, or a variant without them"
        )
    steps: list[Step] = []
    for op in operators:
        if op.name == "DEQUANTIZE" and not builder.is_computed(op.inputs[0] if op.inputs else -1):
            builder.unpack(op)
            continue
        try:
            made = list(steps_of(builder, op))
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            # Options and constants of a damaged file can be anything.
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ModelError(f"{op} does not fit its inputs: {reason}: {ADVICE}") from error
        for step in made:
            builder.quantise(op, step)
            builder.check(op, step)
            steps.append(step)
    source, result = parsed.inputs[0], builder.computed(output, "the output")
    return GraphModule(
        steps, source, result, builder.input_arithmetic(source), builder.scale(result)
    )
