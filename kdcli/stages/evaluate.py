"""Stage `evaluate`: measure teacher, student and the models they are compared with."""

from typing import TYPE_CHECKING, Any

from kdcli.pipeline.stage import Stage, StageContext

if TYPE_CHECKING:
    from kdcli.pipeline.run_estimate import EstimateInputs


class EvaluateStage(Stage):
    """Measure all models of the run on the same texts."""

    name = "evaluate"
    description = "measure them"
    artifact = "evaluation.json"
    needs = ("teacher", "outputs", "distill", "control", "baseline", "export", "baselines")
    recipe_parts = ("data", "evaluate")
    ignored_keys = ("data.unlabeled", "evaluate.baselines")
    version = 6

    def estimate(self, workload: "EstimateInputs") -> dict[str, Any]:
        """Estimate the forward passes of all models; a timed text counts as one of a batch."""
        from kdcli.evaluation.efficiency.latency import count_timed_texts

        recipe = workload.recipe
        texts = sum(workload.split_sizes.get(split, 0) for split in recipe.evaluate.splits)
        texts += count_timed_texts(recipe.evaluate.latency_texts)
        students = 1 + recipe.baseline + recipe.has_control_student
        flops = students * workload.student.flops_per_token
        flops += 0 if workload.teacher is None else workload.teacher.flops_per_token
        return {"seconds": workload.forward_seconds(texts, flops)}

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write `evaluation.json`.

        Returns:
            The content of the file without its long tables; see
            `kdcli.evaluation.output.evaluation_schema`.
        """
        from kdcli.evaluation.compare import compare_models
        from kdcli.evaluation.evaluation_splits import select_evaluation_splits
        from kdcli.evaluation.output import per_example_export
        from kdcli.evaluation.output.evaluation_schema import (
            BASELINE,
            STUDENT,
            TEACHER,
            drop_long_tables,
            exported_model_suffix,
            format_evaluation_json,
        )
        from kdcli.evaluation.predict.calibrated_predictions import VALIDATION
        from kdcli.pipeline import run_datasets
        from kdcli.pipeline.simple_baselines import read_baselines, separate_baselines
        from kdcli.teachers import black_box_queries

        recipe = context.recipe
        corpus = run_datasets.load_teacher_labeled_dataset(context, with_transfer=False)
        stage_of_model = {
            TEACHER: "teacher",
            STUDENT: "distill",
            "control": "control",
            BASELINE: "baseline",
        }
        folders = {
            model: context.artifacts[stage]
            for model, stage in stage_of_model.items()
            if stage in context.artifacts
        }
        exported_from = {}
        if "export" in context.artifacts:
            exported = context.stage_results["export"]
            name = STUDENT + exported_model_suffix(exported)
            folders[name] = context.artifacts["export"] / exported["file"]
            exported_from[name] = STUDENT
        logits: dict[str, Any] | None = None
        if (black_box := recipe.black_box_teacher) is not None:
            splits = select_evaluation_splits(recipe.evaluate, corpus)
            setting = run_datasets.black_box_context(
                recipe, corpus, folders.pop(TEACHER), context.reporter, context.options
            )
            logits = {
                TEACHER: black_box_queries.predict_teacher_logits(
                    black_box, setting, [*dict.fromkeys([*splits, VALIDATION])]
                )
            }
        baselines: dict[str, Any] = {}
        if "baselines" in context.artifacts:
            baselines = read_baselines(context.artifacts["baselines"])
        comparison = compare_models(
            folders,
            corpus,
            recipe.evaluate,
            recipe.data.max_length,
            context.reporter,
            truncate=recipe.data.truncation,
            precomputed_logits={**(logits or {}), **baselines},
            exported_from=exported_from,
        )
        evaluation = {
            **separate_baselines(comparison.evaluation, context.stage_results.get("baselines")),
            "apart": per_example_export.find_disagreements(comparison, STUDENT, TEACHER),
        }
        for model in evaluation["models"]:
            # Paths of this machine mean nothing elsewhere.
            model["path"] = folders[model["name"]].name if model["name"] in folders else ""
        context.output.write_text(format_evaluation_json(evaluation), encoding="utf-8")
        return drop_long_tables(evaluation)
