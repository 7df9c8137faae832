"""A narrower model keeps the teacher's most important units."""

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    ModernBertConfig,
    MPNetConfig,
    NomicBertConfig,
    Olmo2Config,
    Phi3Config,
    Qwen3Config,
    RobertaConfig,
    T5Config,
)

from kdcli.errors import ModelError
from kdcli.models import tensor_slicing, width_pruning, width_pruning_plan

SMALL = {"vocab_size": 100, "pad_token_id": 0}
NARROW = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
          "intermediate_size": 24, **SMALL}  # fmt: skip
GROUPED = {**NARROW, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "bert": BertConfig(**NARROW),
    "distilbert": DistilBertConfig(dim=32, n_layers=3, n_heads=4, hidden_dim=24, **SMALL),
    "roberta": RobertaConfig(**NARROW | {"pad_token_id": 1}),
    "mpnet": MPNetConfig(**NARROW),
    "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2, **SMALL),
    "modernbert": ModernBertConfig(
        **NARROW, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
    ),
    "nomic_bert": NomicBertConfig(**NARROW),
    "t5": T5Config(
        d_model=32, num_layers=2, num_heads=4, d_kv=6, d_ff=24, decoder_start_token_id=0, **SMALL
    ),
    "llama": LlamaConfig(**GROUPED),
    "qwen3": Qwen3Config(head_dim=6, **GROUPED),
    "phi3": Phi3Config(**GROUPED),
}  # fmt: skip
WITH_HEADS = ["nomic_bert", "t5", "llama", "qwen3", "phi3"]
CASES = [(kind, "ffn") for kind in CONFIGS] + [(kind, "heads") for kind in WITH_HEADS]
# GPT-2's is four times the hidden size where it isn't said.
WIDTHS = dict.fromkeys(CONFIGS, 24) | {"gpt2": 128}
BATCHES = [
    {"input_ids": ids, "attention_mask": (ids != 0).long()}
    for ids in (
        torch.tensor([[5, 6, 7, 8, 1], [5, 9, 1, 0, 0]]),
        torch.tensor([[12, 30, 44, 1], [7, 51, 1, 0]]),
    )
]


def make(config):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).eval()


def logits(model):
    with torch.no_grad():
        return torch.cat([model(**batch).logits for batch in BATCHES])


def number(kind, key):
    return WIDTHS[kind] if key == "ffn" else 4


def without(model, key, count, *, head=True):
    units = width_pruning_plan.plan_width_pruning(model, **{key: count})
    return width_pruning.prune_width(model, units, BATCHES, use_logits=head)


def silence(model, units, dead):
    """Let what the units `dead` compute have no effect, in every layer."""
    places = torch.cat(
        [torch.arange(u * units.unit_width, (u + 1) * units.unit_width) for u in dead]
    )
    for site in units.output_projections:
        weight = model.get_submodule(site).weight
        with torch.no_grad():
            weight.index_fill_(units.resized_parameters[f"{site}.weight"].dim, places, 0.0)


def assert_slices(smaller, model):
    """Every tensor is the model's, or slices of it, in their order."""
    whole = model.state_dict()
    for name, tensor in smaller.state_dict().items():
        if tensor.shape == whole[name].shape:
            assert torch.equal(tensor, whole[name]), name
            continue
        (dim,) = (d for d, n in enumerate(tensor.shape) if n != whole[name].shape[d])
        left = iter(whole[name].unbind(dim))
        assert all(any(torch.equal(part, o) for o in left) for part in tensor.unbind(dim)), name


@pytest.fixture(params=CASES, ids="-".join)
def case(request):
    kind, key = request.param
    return make(CONFIGS[kind]), key, number(kind, key)


@pytest.mark.parametrize("kind", CONFIGS)
def test_keeping_every_unit_changes_nothing(kind):
    model = make(CONFIGS[kind])
    units = width_pruning_plan.plan_width_pruning(model, heads=4, ffn=WIDTHS[kind])
    assert units == ()
    same = width_pruning.prune_width(model, units, BATCHES, use_logits=True)
    torch.testing.assert_close(logits(same), logits(model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", [True, False], ids=["logits", "hidden states"])
def test_units_without_effect_are_pruned(case, head):
    model, key, count = case
    (units,) = width_pruning_plan.plan_width_pruning(model, **{key: count // 2})
    size = units.num_units // units.num_groups
    silence(model, units, range(size, size + count // 2))
    smaller = without(model, key, count // 2, head=head)
    torch.testing.assert_close(logits(smaller), logits(model), atol=1e-5, rtol=0)
    assert_slices(smaller, model)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("kind", "key"), [("qwen3", "heads"), ("t5", "heads"), ("bert", "ffn")])
def test_importance_is_the_squared_gradient_of_the_outputs(kind, key):
    model, step = make(CONFIGS[kind]).double(), 1e-5
    (units,) = width_pruning_plan.plan_width_pruning(model, **{key: 2})
    draws = 300
    many = [{name: t.repeat(draws, 1) for name, t in batch.items()} for batch in BATCHES]
    worth = width_pruning.compute_unit_importance(model, [units], many, use_logits=True)
    whole = logits(model)
    for site in units.output_projections:
        for unit in (0, 3):
            factor = torch.ones(1, units.num_units, dtype=torch.float64)
            factor[0, unit] -= step
            with width_pruning._scale_units(
                model, width_pruning._unit_widths([units]), {site: factor}
            ):
                moved = ((logits(model) - whole) / step).square().sum()
            assert worth[site][unit] / draws == pytest.approx(moved.item(), rel=0.3)


def test_narrower_model_loads_in_plain_transformers(case, tmp_path):
    model, key, count = case
    smaller = without(model, key, count // 2)
    smaller.save_pretrained(tmp_path)
    loaded, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    torch.testing.assert_close(logits(loaded.eval()), logits(smaller))


def test_narrower_model_trains(case):
    model, key, count = case
    student = without(model, key, count // 2)
    student.config.problem_type = "single_label_classification"
    optimiser = torch.optim.Adam(student.parameters(), lr=1e-4)
    losses = []
    for _ in range(2):
        loss = student(**BATCHES[0], labels=torch.tensor([0, 1])).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[1] < losses[0]


def test_heads_and_neurons_are_pruned_together():
    model = make(CONFIGS["qwen3"])
    smaller = width_pruning.prune_width(
        model,
        width_pruning_plan.plan_width_pruning(model, heads=2, ffn=10),
        BATCHES,
        use_logits=True,
    )
    attention = smaller.model.layers[0].self_attn
    assert attention.q_proj.weight.shape == (2 * 6, 32)
    assert attention.k_proj.weight.shape == (1 * 6, 32)
    assert smaller.model.layers[0].mlp.gate_proj.weight.shape == (10, 32)


@pytest.mark.parametrize(
    ("heads", "groups", "keep", "left", "left_groups"),
    [
        (8, 4, 4, [0, 1, 4, 5], [0, 2]),  # two whole groups
        (6, 2, 2, [1, 3], [0, 1]),  # the best of each group
        (4, 1, 3, [0, 1, 3], [0]),  # all share the same keys and values
        (4, 4, 3, [0, 1, 3], [0, 1, 3]),  # none does
    ],
)
def test_key_value_groups_are_pruned_consistently(heads, groups, keep, left, left_groups):
    units = width_pruning_plan.PrunableUnits("heads", heads, keep, groups, 1, {}, {}, ())
    worth = torch.zeros(heads)
    worth[left] = 1.0
    found, found_groups = units.select_units(worth)
    assert found.tolist() == left
    assert found_groups.tolist() == left_groups


def test_heads_with_a_shared_position_bias_match_in_all_layers():
    model = make(CONFIGS["t5"])
    (units,) = width_pruning_plan.plan_width_pruning(model, heads=2)
    families = [sites for sites, _ in width_pruning._tied_projections(units)]
    assert sorted(map(len, families)) == [1, 1, 2, 2]
    assert ["transformer.encoder.block.0.layer.0.SelfAttention.o",
            "transformer.encoder.block.1.layer.0.SelfAttention.o"] in families  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind not in WITH_HEADS])
def test_heads_without_a_head_dim_key_are_refused(kind):
    model = make(CONFIGS[kind])
    with pytest.raises(ModelError, match=f"student.num_attention_heads: .*type {kind} "):
        width_pruning_plan.plan_width_pruning(model, heads=2)


@pytest.mark.parametrize(
    ("kind", "wish", "says"),
    [
        ("bert", {"heads": 5}, "num_attention_heads is 5, and the teacher's layers have 4 heads"),
        (
            "bert",
            {"ffn": 25},
            "intermediate_size is 25, and the teacher's feed-forward layers have 24",
        ),
        ("gpt2", {"ffn": 129}, "have 128"),
        ("qwen3", {"heads": 5}, "have 4 heads"),
        ("llama", {"heads": 3}, "2 heads share keys and values.*a multiple of 2"),
    ],
)
def test_keeping_more_units_than_exist_is_refused(kind, wish, says):
    with pytest.raises(ModelError, match=says):
        width_pruning_plan.plan_width_pruning(make(CONFIGS[kind]), **wish)


def test_config_check_of_the_architecture_is_reported():
    model = make(LlamaConfig(**GROUPED | {"num_key_value_heads": 1}))
    with pytest.raises(ModelError, match=r"hidden size \(32\) is not a multiple.*\(3\)"):
        width_pruning_plan.plan_width_pruning(model, heads=3)


def test_expert_layers_are_refused():
    config = MixtralConfig(num_local_experts=2, **GROUPED)
    with pytest.raises(ModelError, match="type mixtral has no feed-forward layers of one width"):
        width_pruning_plan.plan_width_pruning(make(config), ffn=12)


def test_pruning_that_changes_the_computation_is_refused():
    # Its queries are normed over all heads together: fewer of them have another norm.
    model = make(Olmo2Config(**GROUPED))
    with pytest.raises(ModelError, match="a model of type olmo2 computes something else"):
        without(model, "heads", 2)


@pytest.mark.parametrize("kind", CONFIGS)
def test_scratch_model_is_narrower_and_runs(kind):
    config = CONFIGS[kind]
    smaller = width_pruning_plan.build_scratch_config(config, 16)
    assert smaller.hidden_size == 16
    assert smaller.num_attention_heads == 2
    assert logits(make(smaller)).shape == (4, 2)
    assert config.hidden_size == 32
    again = type(smaller).from_dict(smaller.to_dict())
    assert make(again).state_dict().keys() == make(smaller).state_dict().keys()


def test_scratch_model_takes_heads_and_ffn():
    config = width_pruning_plan.build_scratch_config(CONFIGS["bert"], 20, heads=5, ffn=7)
    assert (config.num_attention_heads, config.intermediate_size) == (5, 7)
    assert width_pruning_plan.build_scratch_config(CONFIGS["bert"], 16).intermediate_size == 12


@pytest.mark.parametrize(
    ("kind", "wish", "says"),
    [
        ("bert", {"hidden": 33}, "hidden_size is 33, and the teacher's hidden states are 32 wide"),
        (
            "bert",
            {"hidden": 20},
            "hidden_size is 20, no multiple of 8.*student.num_attention_heads",
        ),
        ("bert", {"hidden": 20, "heads": 3}, "20.*not a multiple"),
        ("llama", {"hidden": 20, "heads": 3}, "20.*not a multiple"),
    ],
)
def test_impossible_scratch_model_is_refused(kind, wish, says):
    with pytest.raises(ModelError, match=says):
        width_pruning_plan.build_scratch_config(CONFIGS[kind], **wish)


def test_planning_works_on_the_meta_device():
    config = CONFIGS["qwen3"]
    units = width_pruning_plan.plan_width_pruning(
        tensor_slicing.build_meta_model(config), heads=2, ffn=10
    )
    smaller = width_pruning_plan.build_narrowed_config(config, units)
    assert (smaller.num_attention_heads, smaller.num_key_value_heads) == (2, 1)
    assert (smaller.head_dim, smaller.intermediate_size) == (6, 10)
