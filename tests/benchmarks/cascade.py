"""Promise and outcome of a cascade, on a run's validation and test texts.

    python tests/benchmarks/cascade.py RUN

First table: the rule is chosen on validation and measured on test. Second table: without shift, the
in-scope texts of both splits are shuffled 200 times; the rule is chosen on as many as validation
has, and measured on the others. "Broken" is the share of the draws in which more than was promised
is lost.
"""

import argparse
from dataclasses import replace

import numpy as np

import kdcli
from kdcli.evaluation.cascade import cascade_report
from kdcli.evaluation.cascade.deferral_rule import CascadeDecisions, choose_rule, measure_cascade

PROMISES = [(metric, drop) for metric in ("accuracy", "agreement") for drop in (0.01, 0.02, 0.05)]
PROMISES.insert(0, ("accuracy", 0.005))
CONFIDENCE = 0.95
DRAWS = 200


def in_scope(decisions: CascadeDecisions) -> CascadeDecisions:
    """Return the decisions on in-scope texts."""
    rows = np.flatnonzero(decisions.references != decisions.out_of_scope_id)
    return replace(take(decisions, rows), out_of_scope_id=None)


def take(decisions: CascadeDecisions, rows: np.ndarray) -> CascadeDecisions:
    """Return the decisions on some texts."""
    names = ("student", "confidence", "teacher", "references")
    return replace(decisions, **{name: getattr(decisions, name)[rows] for name in names})


def join(first: CascadeDecisions, second: CascadeDecisions) -> CascadeDecisions:
    """Return the decisions on the texts of both."""
    names = ("student", "confidence", "teacher", "references")
    parts = {n: np.concatenate([getattr(first, n), getattr(second, n)]) for n in names}
    return replace(first, **parts)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    run = parser.parse_args().run
    comparison = kdcli.evaluate(run, splits=["validation", "test"]).comparison
    print("| promise | promised for | deferred | on test | lost in scope | out of scope "
          "| disagreement in scope | out of scope | ms |")  # fmt: skip
    print("| --- | --- |" + " ---: |" * 7)
    for metric, drop in PROMISES:
        (report,) = cascade_report.evaluate_cascades(comparison, metric, drop, CONFIDENCE)
        test = report.splits["test"]
        inside, outside = test["groups"]["in_scope"], test["groups"]["out_of_scope"]
        cells = (
            f"{metric}, {100 * drop:g} points",
            " and ".join(name.replace("_", " ") for name in report.rule.promised_for),
            f"{report.rule.deferred:.1%}",
            f"{test['deferred']:.1%}",
            f"{100 * inside['drop']:+.2f}",
            f"{100 * outside['drop']:+.2f}",
            f"{inside['disagreement']:.2%}",
            f"{outside['disagreement']:.2%}",
            f"{test['ms']:.1f}",
        )
        print(f"| {' | '.join(cells)} |")
    models = {model["name"]: model for model in comparison.evaluation["models"]}
    names = (models, report.student, report.teacher)
    validation, test = (
        in_scope(cascade_report.decide(comparison, *names, split))
        for split in ("validation", "test")
    )
    everything, size = join(validation, test), len(validation.student)
    rng = np.random.default_rng(0)
    print("\n| promise | deferred | lost, mean | lost, largest | broken |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for metric, drop in PROMISES:
        lost, deferred = [], []
        for _ in range(DRAWS):
            order = rng.permutation(len(everything.student))
            rule = choose_rule(take(everything, order[:size]), metric, drop, CONFIDENCE)
            outcome = measure_cascade(take(everything, order[size:]), rule.threshold, 0, 0)
            key = "drop" if metric == "accuracy" else "disagreement"
            lost.append(outcome["groups"]["all"][key])
            deferred.append(rule.deferred)
        cells = (
            f"{metric}, {100 * drop:g} points",
            f"{np.mean(deferred):.1%}",
            f"{100 * np.mean(lost):.2f}",
            f"{100 * np.max(lost):.2f}",
            f"{np.mean(np.array(lost) > drop):.1%}",
        )
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
