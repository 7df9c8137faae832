"""A whole split's outputs are those of its texts one by one."""

import numpy as np
import torch
from datasets import Dataset

from kdcli.data.encode import encode
from kdcli.models import source
from kdcli.models.forward import collator_for, logits


def test_sorting_and_padding_change_nothing(tiny_teacher, help_desk):
    model, tokenizer = source.load_classifier(tiny_teacher), source.load_tokenizer(tiny_teacher)
    texts = help_desk["test"]["text"][:40]
    encoded = encode(Dataset.from_dict({"text": texts}), tokenizer, 64)
    found = logits(model, collator_for(model, tokenizer), encoded, 16)
    with torch.no_grad():
        alone = [model(**tokenizer(t, return_tensors="pt")).logits[0].numpy() for t in texts]
    np.testing.assert_allclose(found, np.stack(alone), atol=1e-5)
    assert found.dtype == np.float32
