"""Load a classifier to label texts with."""

from pathlib import Path
from typing import Literal

from kdcli import path_resolution
from kdcli.api.progress_reporting import quiet_libraries
from kdcli.errors import UsageError
from kdcli.family_runtimes import find_family_runtime, load_family_classifier
from kdcli.models import model_io
from kdcli.pipeline.run_folder import RECIPE_FILE
from kdcli.runtime import (
    EXPORT_FILE,
    EXPORT_FILE_SUFFIXES,
    ONNX_FOLDER,
    Classifier,
    TextClassifier,
    Truncation,
)

Runtime = Literal["onnx", "torch"]


def load(
    model: str | Path,
    *,
    runtime: Runtime | None = None,
    device: str | None = None,
    num_threads: int | None = None,
    max_length: int | None = None,
    truncation: Truncation | None = None,
    allow_pickle: bool = False,
) -> TextClassifier:
    """Load a classifier that labels texts as `kd evaluate` does.

        kdcli.load("runs/mine").predict(["My card is lost."])[0].label

    Args:
        model: A run's folder, which stands for its student; a model folder, Hub id or
            `package:NAME/PATH`; or a file that `kd export` wrote.
        runtime: `onnx` for the exported file, `torch` for PyTorch. Default: `onnx` for a model that
            was exported, else `torch`.
        device: PyTorch's device. Default: a CUDA device if there is one, else the CPU.
        num_threads: Threads of an exported model. Default: the CPUs that this process may use.
        max_length: Tokens to keep of a text. Default: as in training.
        truncation: Tokens to keep of a longer text. Default: as in training.
        allow_pickle: Allow weights that are stored as a pickle.

    Raises:
        KdError: The model is missing or can't be used, or a package is missing.
    """
    with quiet_libraries():
        path = path_resolution.expand_local_path(str(model))
        if path.suffix in EXPORT_FILE_SUFFIXES and path.is_file():
            folder, file = path.parent.parent, path.name
        else:
            is_run = (path / RECIPE_FILE).is_file() and not (path / "config.json").is_file()
            reference = str(path / "student") if is_run else str(model)
            folder, file = model_io.locate_model(reference, allow_pickle=allow_pickle), None
        if file is None and find_family_runtime(folder) is not None:
            if runtime is not None:
                raise UsageError(
                    f"{model} is no transformer, and has a runtime of its own.",
                    "Leave the runtime out.",
                )
            return load_family_classifier(folder, max_length=max_length, truncation=truncation)
        is_exported = file is not None or (folder / ONNX_FOLDER / EXPORT_FILE).is_file()
        if runtime == "onnx" and not is_exported:
            raise UsageError(f"{model} is not exported.", f"Export it: kd export {model}.")
        if runtime == "torch" or not is_exported:
            # PyTorch takes seconds to import.
            from kdcli.models.torch_classifier import TorchClassifier

            return TorchClassifier(
                folder,
                name=str(model),
                device=device,
                max_length=max_length,
                truncation=truncation,
            )
        return Classifier(
            folder,
            file=file,
            num_threads=num_threads,
            max_length=max_length,
            truncation=truncation,
        )
