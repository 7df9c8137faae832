"""Run a static student, token vectors and a head, with numpy, tokenizers and safetensors.

The folder is one of model2vec, with the head in a file of its own.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli.errors import DataError, ModelError, UsageError
from kdcli.runtime import Text, TextClassifier, Truncation, read_labels_and_task

if TYPE_CHECKING:
    import numpy as np

VECTORS_FILE, HEAD_FILE = "model.safetensors", "head.safetensors"
_BATCH_SIZE = 1_024


class StaticClassifier(TextClassifier):
    """A static student in numpy.

    Args:
        folder: The student's folder.
        max_length: Tokens to keep of a text. Default: as in training.
        truncation: Tokens to keep of a longer text: only `head`.

    Raises:
        ModelError: A file is missing or invalid.
        UsageError: Another truncation.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        max_length: int | None = None,
        truncation: Truncation | None = None,
    ) -> None:
        import numpy as np
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        path = Path(folder)
        if truncation not in (None, "head"):
            raise UsageError(
                f"{path}: a static student reads a text from its start, and can't truncate it by "
                f"{truncation}.",
                "Leave the truncation out.",
            )
        config, labels, task = read_labels_and_task(path)
        super().__init__(path, labels, task, max_length=max_length, truncation=truncation)
        try:
            self._vectors = load_file(path / VECTORS_FILE)["embeddings"]
            head = load_file(path / HEAD_FILE)
            self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
            self._layers = [
                (head[f"{name}.weight"], head[f"{name}.bias"])
                for name in ("hidden", "classifier")
                if f"{name}.weight" in head
            ]
            self._scale = np.float32(head["scale"][0])
        # The tokenizers library raises bare Exceptions.
        except Exception as error:
            raise ModelError(
                f"{path} is no complete static student: {error}.", "Copy it again."
            ) from error
        self._check_shapes()
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._normalize = bool(config.get("normalize"))
        self.max_length = self.max_length or config.get("max_length")
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        self._unknown_id = None if unknown is None else self._tokenizer.token_to_id(unknown)

    @property
    def num_bytes(self) -> int:
        """Size of vectors and head on disk."""
        return sum((self.folder / name).stat().st_size for name in (VECTORS_FILE, HEAD_FILE))

    @property
    def num_parameters(self) -> int:
        """Number of parameters."""
        head = sum(weight.size + bias.size for weight, bias in self._layers)
        return int(self._vectors.size + head)

    def embed(self, texts: Sequence[str]) -> "np.ndarray":
        """Return the mean vectors of texts, float32, (texts, width)."""
        import numpy as np

        vectors = np.zeros((len(texts), self._vectors.shape[1]), dtype=np.float32)
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        for row, encoding in enumerate(encodings):
            # Truncation counts unknown tokens, as in training.
            ids = [i for i in encoding.ids[: self.max_length] if i != self._unknown_id]
            if ids:
                vectors[row] = self._vectors[ids].mean(0, dtype=np.float32)
        vectors *= self._scale
        if self._normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def _compute_logits(
        self,
        texts: Sequence[Text],
        first_index: int,
        batch_size: int | None,
        advance: Callable[[int, int], None],
    ) -> "np.ndarray":
        import numpy as np

        singles = [text for text in texts if isinstance(text, str)]
        if len(singles) < len(texts):
            raise DataError(f"{self.folder}: a static student reads single texts, and no pairs.")
        size = batch_size or _BATCH_SIZE
        logits = np.zeros((len(texts), len(self.labels)), dtype=np.float32)
        for start in range(0, len(singles), size):
            batch = self.embed(singles[start : start + size])
            for number, (weight, bias) in enumerate(self._layers):
                batch = (np.maximum(batch, 0) if number else batch) @ weight + bias
            logits[start : start + len(batch)] = batch
            advance(start + len(batch), len(texts))
        return logits

    def _check_shapes(self) -> None:
        width = self._vectors.shape[1] if self._vectors.ndim == 2 else -1
        rows = len(self._vectors)
        for weight, bias in self._layers:
            if weight.ndim != 2 or weight.shape[0] != width or bias.shape != weight.shape[1:]:
                raise ModelError(f"{self.folder}: vectors and head have different widths.")
            width = weight.shape[1]
        if not self._layers or width != len(self.labels):
            raise ModelError(
                f"{self.folder}: the head has {width} outputs for {len(self.labels)} labels."
            )
        if (tokens := self._tokenizer.get_vocab_size()) > rows:
            raise ModelError(f"{self.folder}: {rows:,} vectors for {tokens:,} tokens.")


def quantize_vectors(vectors: "np.ndarray", dtype: str) -> "tuple[np.ndarray, float]":
    """Convert vectors to a number format.

    Args:
        vectors: float32, (tokens, width).
        dtype: `float32`, `float16`, or `int8`, with one scale for all.

    Returns:
        The vectors, and the factor that gives them their size back.
    """
    import numpy as np

    if dtype != "int8":
        return np.ascontiguousarray(vectors.astype(dtype)), 1.0
    scale = float(np.abs(vectors).max()) / 127 or 1.0
    return np.rint(vectors / scale).clip(-127, 127).astype(np.int8), scale
