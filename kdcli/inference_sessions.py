"""Run a classifier's graph in onnxruntime or OpenVINO.

Part of the runtime without PyTorch: imports nothing of kd but its errors.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from kdcli.errors import ModelError, UsageError

if TYPE_CHECKING:
    import numpy as np

# Read when onnxruntime is imported: it has telemetry, and kd sends nothing unasked.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

OPENVINO_SUFFIX = ".xml"
# The section of an OpenVINO file's metadata into which it copies those of the ONNX file.
OPENVINO_SECTION = "framework"


class InferenceSession(ABC):
    """A loaded graph that computes `logits`.

    Attributes:
        input_names: Names of the inputs.
        num_labels: Width of `logits`; None if the graph has no such output or its width varies.
        metadata: The metadata that `kd export` wrote, by key, such as `kd.precision`.
    """

    input_names: Sequence[str]
    num_labels: int | None
    metadata: Mapping[str, str]

    @abstractmethod
    def run(self, inputs: Mapping[str, "np.ndarray"]) -> "np.ndarray":
        """Compute the logits of a batch, float32, (rows, labels).

        Args:
            inputs: For each input an int64 array, (rows, tokens).
        """


def load_session(path: Path, num_threads: int) -> InferenceSession:
    """Load an ONNX file, or OpenVINO's `.xml` file.

    Args:
        path: The file.
        num_threads: Threads that share the work on a batch.

    Raises:
        ModelError: The file can't be loaded.
        UsageError: The runtime is not installed.
    """
    is_openvino = path.suffix == OPENVINO_SUFFIX
    try:
        return (_OpenVinoSession if is_openvino else _OnnxSession)(path, num_threads)
    except ImportError as error:
        runtime, extra = ("openvino", "openvino") if is_openvino else ("onnxruntime", "export")
        raise UsageError(
            f"{path.name} needs {runtime}, which is not installed.",
            f"Install it: pip install 'kdcli[{extra}]'.",
        ) from error
    except Exception as error:  # onnxruntime has an exception type for each of its causes
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise ModelError(
            f"{path} can't be loaded: {reason}", "Export the model again: kd export MODEL."
        ) from error


class _OnnxSession(InferenceSession):
    def __init__(self, path: Path, num_threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        # Idle threads that spin take the processors from whatever else runs in the process.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.input_names = [each.name for each in self._session.get_inputs()]
        widths = {each.name: each.shape[-1] for each in self._session.get_outputs()}
        width = widths.get("logits")
        self.num_labels = width if isinstance(width, int) else None
        self.metadata = self._session.get_modelmeta().custom_metadata_map

    def run(self, inputs: Mapping[str, "np.ndarray"]) -> "np.ndarray":
        logits: np.ndarray = self._session.run(["logits"], dict(inputs))[0]
        return logits


class _OpenVinoSession(InferenceSession):
    def __init__(self, path: Path, num_threads: int) -> None:
        import openvino

        model = openvino.Core().read_model(str(path))
        self.input_names = [each.get_any_name() for each in model.inputs]
        widths = {name: each.partial_shape for each in model.outputs for name in each.names}
        width = widths["logits"][1] if "logits" in widths else None
        self.num_labels = None if width is None or width.is_dynamic else width.get_length()
        has_metadata = model.has_rt_info([OPENVINO_SECTION])
        section = model.get_rt_info()[OPENVINO_SECTION] if has_metadata else {}
        self.metadata = {name: str(each.value) for name, each in section.items()}
        options = {
            "INFERENCE_NUM_THREADS": num_threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # The default is bfloat16 where the processor has it: answers would depend on the
            # machine.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = openvino.compile_model(model, "CPU", options).create_infer_request()
        self._request, self._lock = request, Lock()

    def run(self, inputs: Mapping[str, "np.ndarray"]) -> "np.ndarray":
        # A request runs one batch at a time.
        with self._lock:
            logits: np.ndarray = self._request.infer(dict(inputs))["logits"].copy()
        return logits
