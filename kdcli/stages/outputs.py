"""The teacher's outputs for every text that the student will see, written once."""

from typing import Any

from kdcli import processes
from kdcli.data.encode import encode, length_limit
from kdcli.models import source
from kdcli.models.forward import collator_for, shared_logits
from kdcli.progress import Tally
from kdcli.run import Job
from kdcli.stages import texts
from kdcli.training import signals

_SPLITS = ("train", "validation")
_BATCH_SIZE = 64


def run(job: Job) -> dict[str, Any]:
    """Build the folder of the teacher's outputs on train and validation.

    Returns:
        `rows`: how many texts the teacher was asked about.
    """
    corpus = texts.load(job.recipe, job.reporter)
    model = source.load_classifier(job.inputs["teacher"])
    tokenizer = source.load_tokenizer(job.inputs["teacher"])
    limit = length_limit(model.config, tokenizer, job.recipe.data.max_length)
    collate = collator_for(model, tokenizer)
    rows = sum(len(corpus.splits[split]) for split in _SPLITS)
    advance = Tally(job.reporter, rows)
    found = {}
    for split in _SPLITS:
        encoded = encode(corpus.splits[split], tokenizer, limit)
        found[split] = shared_logits(model, collate, encoded, _BATCH_SIZE, advance)
    if processes.is_first():
        signals.write(found, job.output)
    return {"rows": rows}
