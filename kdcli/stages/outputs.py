"""The teacher's outputs for every text that the student will see, written once."""

from typing import Any

from kdcli.data.encode import encode, length_limit
from kdcli.models import source
from kdcli.models.forward import collator_for, logits
from kdcli.run import Job
from kdcli.stages import texts
from kdcli.training import losses, signals


def run(job: Job) -> dict[str, Any]:
    """Build the folder of the teacher's outputs on train and validation.

    Returns:
        `rows`: how many texts the teacher was asked about; 0 where no loss reads its outputs.
    """
    recipe, reporter = job.recipe, job.reporter
    if not losses.needs_teacher(recipe.distill.losses):
        job.output.mkdir()
        return {"rows": 0}
    corpus = texts.load(recipe, reporter)
    model = source.load_classifier(job.inputs["teacher"])
    tokenizer = source.load_tokenizer(job.inputs["teacher"])
    limit = length_limit(model.config, tokenizer, recipe.data.max_length)
    total, done = sum(len(corpus.splits[part]) for part in ("train", "validation")), 0
    found = {}
    for part in ("train", "validation"):
        split = corpus.splits[part]
        found[part] = logits(
            model,
            collator_for(model, tokenizer),
            encode(split, tokenizer, limit),
            recipe.evaluate.batch_size,
            lambda rows, _, before=done: reporter.advance(before + rows, total),
        )
        done += len(split)
    signals.write(found, job.output)
    return {"rows": done}
