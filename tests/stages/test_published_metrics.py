"""What card and page say of the student is what plain transformers gives from its folder alone."""

import html
import json
import re

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from scipy.special import expit, logsumexp, softmax
from scipy.stats import pearsonr, spearmanr
from sklearn import metrics
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdcli.pipeline import runner as runs
from kdcli.progress import SilentReporter
from kdcli.recipe.schema import Recipe

WORDS = ("parcel", "refund", "password", "invoice", "delivery", "size", "music", "camera")
FIT = {"batch_size": 16, "learning_rate": 3e-3, "epochs": 2}


def first(words):
    return words[0] if words[0] in ("parcel", "refund", "password") else "other"


def several(words):
    return sorted({*words} & {"parcel", "refund", "password"})


def score(words):
    return 0.25 + sum(WORDS.index(word) for word in words) / 5


# What differs by kind of recipe: how a text is labelled, and what the recipe says.
KINDS = {
    "short": (first, {"data": {"max_length": 5}}),
    "chosen": (
        first,
        {"distill": {"keep_checkpoint": "best", "seed": 7, "epochs": 4, "learning_rate": 0.02}},
    ),
    "out-of-scope": (
        first,
        {"evaluate": {"out_of_scope": "other"}, "data": {"truncation": "tail"}},
    ),
    "several": (several, {"evaluate": {"thresholds": "per_label"}}),
    "score": (score, {}),
    "pairs": (first, {"data": {"text": ["text", "more"], "max_length": 7}}),
}


def rows(label, count, random):
    for _ in range(count):
        words = [*random.choice(WORDS, random.integers(1, 12))]
        more = " ".join(random.choice(WORDS, 3))
        yield {"text": " ".join(words), "more": more, "label": label(words)}


@pytest.fixture(scope="module", params=KINDS)
def made(request, tiny_backbone, tmp_path_factory):
    """A run, its rows by split, and whether they are pairs."""
    label, parts = KINDS[request.param]
    place, random = tmp_path_factory.mktemp(request.param), np.random.default_rng(0)
    texts = {
        split: [*rows(label, count, random)]
        for split, count in (("train", 160), ("validation", 60), ("test", 60))
    }
    (place / "data").mkdir()
    for split, lines in texts.items():
        (place / "data" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    recipe = {
        "name": request.param,
        "data": {"dataset": str(place / "data"), "text": "text"},
        "teacher": {"model": str(tiny_backbone), "fine_tune": FIT},
        "student": {"keep_layers": [0, 2]},
        "distill": FIT,
        "evaluate": {"latency_texts": 2, "splits": ["validation", "test"]},
    }
    for part, values in parts.items():
        recipe[part] = recipe[part] | values
    run = runs.run_pipeline(Recipe.model_validate(recipe), place / "run", SilentReporter())
    return run, texts, request.param == "pairs"


def logits_alone(folder, lines, pairs):
    """Plain transformers, one text at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for line in lines:
        texts = [line["text"], line["more"]] if pairs else [line["text"]]
        inputs = tokenizer(*texts, truncation=True, return_tensors="pt")
        inputs = {n: t for n, t in inputs.items() if n != "token_type_ids" or pairs}
        if model.config.model_type == "distilbert":
            inputs.pop("token_type_ids", None)
        with torch.no_grad():
            found.append(model(**inputs).logits[0].double().numpy())
    return np.stack(found), model.config


def shown(name, value):
    return f"{100 * value:.2f} %" if name not in SCORES else f"{value:.4f}"


SCORES = {"Spearman's correlation", "Pearson's correlation", "Mean absolute error",
          "Root mean squared error"}  # fmt: skip


def expected(logits, config, lines, settings):
    """Figures by their titles on card and page, from scikit-learn and scipy."""
    names = [config.id2label[i] for i in range(config.num_labels)]
    truth = [line["label"] for line in lines]
    if config.problem_type == "regression":
        found = logits[:, 0]
        return {
            "Spearman's correlation": spearmanr(found, truth)[0],
            "Pearson's correlation": pearsonr(found, truth)[0],
            "Mean absolute error": metrics.mean_absolute_error(truth, found),
            "Root mean squared error": metrics.root_mean_squared_error(truth, found),
        }
    if config.problem_type == "multi_label_classification":
        there = np.array([[name in labels for name in names] for labels in truth])
        chances = expit(logits)
        given = chances >= 0.5
        figures = {
            "Subset accuracy": metrics.accuracy_score(there, given),
            "Hamming loss": metrics.hamming_loss(there, given),
            "Average precision, micro": metrics.average_precision_score(
                there, chances, average="micro"
            ),
            "Average precision, macro": metrics.average_precision_score(there, chances),
        }  # fmt: skip
        tuned = chances >= [settings["thresholds"][name] for name in names]
        for kind in ("micro", "macro", "samples"):
            title = f"{kind.title()} F1"
            options = {"average": kind, "zero_division": 0}
            figures[title] = metrics.f1_score(there, given, **options)
            figures[f"{title}, tuned thresholds"] = metrics.f1_score(there, tuned, **options)
        return figures
    truth = np.array([names.index(label) for label in truth])
    given = logits.argmax(-1)
    figures = {
        "Accuracy": metrics.accuracy_score(truth, given),
        "Macro F1": metrics.f1_score(truth, given, average="macro", zero_division=0),
        "Calibration error (ECE)": calibration_error(logits, truth),
        "Calibration error (ECE), calibrated": calibration_error(
            logits / settings["temperature"], truth
        ),
    }
    if (point := settings["operating_point"]) is not None:
        outside = names.index(point["label"])
        inside = np.delete(logits, outside, axis=1)
        values = {
            "probability": np.delete(softmax(logits, axis=-1), outside, axis=1).max(-1),
            "margin": inside.max(-1) - logits[:, outside],
            "energy": logsumexp(inside, axis=-1),
            "entropy": (softmax(inside, -1) * np.log(softmax(inside, -1))).sum(-1),
        }[point["score"]]
        best = np.where(np.arange(len(names)) == outside, -np.inf, logits).argmax(-1)
        refusing = np.where(values < point["threshold"], outside, best)
        known = truth != outside
        figures |= {
            "In-scope accuracy": (given == truth)[known].mean(),
            "Out-of-scope recall": (given == truth)[~known].mean(),
            "Accuracy, with out-of-scope threshold": (refusing == truth).mean(),
            "In-scope accuracy, with out-of-scope threshold": (refusing == truth)[known].mean(),
            "Out-of-scope recall, with out-of-scope threshold": (refusing == outside)[
                ~known
            ].mean(),
            "Out-of-scope AUROC": metrics.roc_auc_score(known, values),
            "In-scope texts refused, with out-of-scope threshold": (refusing == outside)[
                known
            ].mean(),
        }
    return figures


def calibration_error(logits, truth):
    """Guo et al. 2017, equation 3, with 15 bins."""
    chances = softmax(logits, axis=-1)
    sure, right = chances.max(-1), chances.argmax(-1) == truth
    bins = np.ceil(sure * 15)
    return sum(abs((right - sure)[bins == b].sum()) for b in range(1, 16)) / len(truth)


# What the student's folder alone doesn't give: these are of its teacher, or of the training texts.
OF_OTHERS = re.compile("teacher|occur in train")


def on_card(card, split):
    """The student's figures on a split, by their titles."""
    part = re.search(
        rf"### On [\d,]+ {split} texts\n(.*?)(\n###|\nValues in parentheses)", card, re.S
    )[1]
    table = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in part.split("\n") if "|" in line
    ]
    column = table[0].index("student")
    return {row[0]: re.sub(r" \(.*", "", row[column]) for row in table[2:]}  # fmt: skip


def on_page(page, split):
    part = re.search(rf"<caption[^>]*>[^<]*{split}.*?</table>", page, re.S)[0]
    heads = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', part, re.S)
    column = next(
        i for i, head in enumerate(heads) if "student" in head and "\N{MINUS SIGN}" not in head
    )
    found = {}
    for row in re.findall(r"<tr>(<th scope=\"row\">.*?)</tr>", part, re.S):
        title = re.sub("<[^>]+>", "", re.search(r"<th[^>]*>(.*?)</th>", row, re.S)[1]).strip()
        cells = re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)
        texts = [re.sub(r"<(small|span).*", "", cell, flags=re.S).strip() for cell in cells]
        found[html.unescape(title)] = texts[column - (len(heads) - len(cells))]
    return found


def test_each_figure_is_that_of_the_published_folder(made):
    run, texts, pairs = made
    student = run.path / "student"
    card, page = (student / "README.md").read_text(), (run.path / "report.html").read_text()
    settings = json.loads((student / "kd.json").read_text())
    index = {
        (r.dataset_split, r.metric_name): r.metric_value for r in ModelCard(card).data.eval_results
    }
    for split in ("validation", "test"):
        logits, config = logits_alone(student, texts[split], pairs)
        figures = expected(logits, config, texts[split], settings)
        for found in (on_card(card, split), on_page(page, split)):
            assert not [t for t in found.keys() - figures.keys() if not OF_OTHERS.search(t)]
        for title, value in figures.items():
            assert on_card(card, split)[title] == shown(title, value), (split, title)
            assert on_page(page, split)[title] == shown(title, value), (split, title)
        for (where, name), value in index.items():
            title = {"Spearman": "Spearman's correlation", "Pearson": "Pearson's correlation"}.get(
                name, name
            )
            if where == split:
                assert value == pytest.approx(figures[title], abs=1e-6)
        if split == "validation":
            headline = re.search(r"\n- (Accuracy|Micro F1|Spearman\S*): (\S+)", card)
            title = "Spearman's correlation" if "Spearman" in headline[1] else headline[1]
            assert float(headline[2]) == pytest.approx(figures[title], abs=1e-4)


def test_the_folder_itself_says_how_texts_are_read(made):
    run, *_ = made
    student = run.path / "student"
    settings = json.loads((student / "kd.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(student)
    assert tokenizer.model_max_length == settings["max_length"]
    from tokenizers import Tokenizer

    long = "parcel " * 100
    raw = Tokenizer.from_file(str(student / "tokenizer.json"))
    assert len(raw.encode(long).ids) == settings["max_length"]
    assert settings["truncate"] in (None, "tail")


def test_the_card_says_which_epoch_was_kept_and_its_seed(made):
    run, *_ = made
    card = (run.path / "student" / "README.md").read_text()
    chosen = "keep_checkpoint: best" in card
    assert ("with the best results on the validation split" in card) == chosen
    assert f"- seed: {7 if chosen else 42}\n" in card
