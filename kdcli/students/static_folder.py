"""Write the folder of a trained static student."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.safe_files import apply_umask
from kdcli.static_runtime import HEAD_FILE, quantize_vectors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def write_static_student(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path, dtype: str
) -> None:
    """Write vectors, tokenizer and configuration as model2vec does, and the head beside them.

    Args:
        model: A trained `StaticForSequenceClassification`.
        tokenizer: Its fast tokenizer.
        folder: Created if it is missing.
        dtype: Number format of the vectors.
    """
    from model2vec.persistence import save_pretrained
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer

    from kdcli.models.sequence_length import NO_LENGTH_LIMIT

    config = model.config
    vectors, scale = quantize_vectors(_to_numpy(model.embeddings.weight), dtype)
    head = {"scale": np.array([scale], dtype=np.float32)}
    for name in ("hidden", "classifier"):
        if (layer := getattr(model, name)) is not None:
            # (inputs, outputs), as numpy multiplies them.
            weight = np.ascontiguousarray(_to_numpy(layer.weight).T)
            if config.normalize and len(head) == 1:
                # model2vec's vectors have length 1.
                weight *= config.hidden_size**0.5
            head[f"{name}.weight"] = weight
            head[f"{name}.bias"] = _to_numpy(layer.bias)
    own_tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own_tokenizer.no_padding()
    own_tokenizer.no_truncation()
    limit = tokenizer.model_max_length
    content: Any = {
        "model_type": "model2vec",
        "architectures": ["StaticModel"],
        "hidden_dim": int(vectors.shape[1]),
        "normalize": config.normalize,
        "max_length": limit if limit < NO_LENGTH_LIMIT else None,
        "id2label": {str(i): name for i, name in config.id2label.items()},
        "label2id": config.label2id,
        "problem_type": config.problem_type,
    }
    save_pretrained(folder, vectors, own_tokenizer, content, create_model_card=False)
    save_file(head, folder / HEAD_FILE)
    file = folder / "config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    apply_umask(folder)


def _to_numpy(tensor: Any) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().float().numpy()
    return array
