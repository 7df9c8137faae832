"""The student before it learns: cut out of the teacher, or a smaller pretrained model."""

from typing import Any

from transformers import set_seed

from kdcli.models import layers, source, surgery
from kdcli.run import Job


def run(job: Job) -> dict[str, Any]:
    """Build the untrained student's folder.

    Returns:
        `origin`, one sentence on where its weights come from, `layers` (those of the teacher that
        were kept; empty for another model) and `parameters`.
    """
    spec, teacher = job.recipe.student, job.inputs["teacher"]
    if spec.model is not None:
        set_seed(job.recipe.seed)
        folder = source.locate(spec.model, spec.revision)
        labels = source.labels_of(source.load_config(teacher))
        student = source.load_classifier(folder, labels, fresh_head=True)
        tokenizer, kept = source.load_tokenizer(folder), ()
        origin = f"It starts from the pretrained model {spec.model}."
    else:
        model = source.load_classifier(teacher)
        kept = layers.choose(spec, surgery.depth(model.config))
        student = surgery.cut(model, kept, spec.architecture)
        tokenizer = source.load_tokenizer(teacher)
        origin = describe(kept, surgery.depth(model.config), student.config.model_type)
    source.save(student, tokenizer, job.output)
    return {
        "origin": origin,
        "layers": list(kept),
        "parameters": source.count_parameters(student),
    }


def describe(kept: tuple[int, ...], depth: int, model_type: str) -> str:
    """One sentence on a cut: which layers, and the form that they took."""
    which = ", ".join(map(str, kept))
    form = (
        " in DistilBERT's form, without token-type embeddings and pooler"
        if model_type == "distilbert"
        else ""
    )
    return f"It starts from layers {which} of the teacher's {depth} (counted from 0){form}."
