"""A TensorFlow Lite graph as a torch module.

Every operator is run once without data (on torch's "meta" device) when it is built, and its
result's shape compared with the one the file declares: what is built is what the file says.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from streamseg.convert import _tflite_schema as schema
from streamseg.convert._tflite_builder import ADVICE, Builder, Step, expect_inputs
from streamseg.convert._tflite_operators import BUILDERS, ELEMENTWISE
from streamseg.errors import ModelError


class GraphModule(nn.Module):  # type: ignore[misc]  # torch is read without types
    """Runs a graph's operators in the file's order.

    Takes and returns float32 in NCHW. Values are dropped after their last use.
    """

    def __init__(self, steps: Sequence[Step], input_index: int, output_index: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self._input_index = input_index
        self._output_index = output_index
        last_use = {index: n for n, step in enumerate(steps) for index in step.inputs}
        self._release = [
            [i for i in sorted(set(step.inputs)) if last_use[i] == n and i != output_index]
            for n, step in enumerate(steps)
        ]

    def forward(self, image: Tensor) -> Tensor:
        values = {self._input_index: image}
        for step, release in zip(self.steps, self._release, strict=True):
            assert isinstance(step, Step)
            values[step.output] = step(*(values[i] for i in step.inputs))
            for index in release:
                del values[index]
        return values[self._output_index]


def build(parsed: schema.Schema) -> GraphModule:
    """Rebuild a graph that has one picture as input and one as output.

    Raises:
        ModelError: An operator, or an option of one, is not supported, or the graph does
            not fit together.
    """
    builder = Builder(parsed)
    known = {*ELEMENTWISE, *BUILDERS, "DEQUANTIZE"}
    unknown = sorted({op.name for op in parsed.operators} - known)
    if unknown:
        raise ModelError(
            f"operators not supported: {', '.join(unknown)}: "
            "convert the original model, or a variant without them"
        )
    steps: list[Step] = []
    for op in parsed.operators:
        if len(op.outputs) != 1:
            raise ModelError(f"{op} has {len(op.outputs)} outputs, expected 1: {ADVICE}")
        if op.name == "DEQUANTIZE":
            builder.unpack(op)
            continue
        step = _step(builder, op)
        builder.check(op, step)
        steps.append(step)
    return GraphModule(steps, parsed.inputs[0], builder.computed(parsed.outputs[0], "the output"))


def _step(builder: Builder, op: schema.Operator) -> Step:
    if op.name in ELEMENTWISE:
        expect_inputs(op, 1)
        return Step(ELEMENTWISE[op.name], [builder.computed(op.inputs[0], op)], op.outputs[0])
    return BUILDERS[op.name](builder, op)
