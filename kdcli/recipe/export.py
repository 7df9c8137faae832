"""The part `export`: the format in which the student is exported."""

from typing import Literal

from pydantic import Field

from kdcli.recipe.base import FrozenConfig

Format = Literal["onnx", "openvino"]
Precision = Literal["float32", "int8", "int8-weights", "float16"]


class ExportConfig(FrozenConfig):
    """The export of the student for runtimes without PyTorch."""

    format: Format = Field(
        "onnx",
        description="'openvino' for OpenVINO, which is fast at large batches on Intel processors. "
        "model.onnx is always written too.",
    )
    precision: Precision = Field(
        "int8",
        description="'int8' quantizes weights and activations; 'int8-weights' weights alone, which "
        "is slower and nearer to the student; 'float32' and 'float16' quantize nothing. "
        "model.onnx, in float32, is always written too.",
    )
    max_drop: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="The largest drops of validation metrics to accept, like accuracy=0.005 or "
        "accuracy.high=0.01 (the end of the 95 % interval). A format that drops more is replaced "
        "by a safer one. Default: 0.005 of the primary metric.",
    )
