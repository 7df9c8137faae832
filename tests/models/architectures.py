"""A tiny random classifier of every architecture that transformers classifies texts with."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    ByT5Tokenizer,
    CanineTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

LABELS = ("calm", "glad", "sad")
LIMIT = 24  # tokens that every model takes
WORDS = tuple(f"w{i}" for i in range(54))
# A tokenizer's special tokens, by the padding token's id: 0 as in BERT, 1 as in RoBERTa.
_SPECIAL = (["<pad>", "<unk>", "<s>", "</s>"], ["<s>", "<pad>", "</s>", "<unk>"])
# What it adds to a text.
TEMPLATES = {
    "encoder": "<s> $A </s>",
    "decoder": "$A",
    "t5": "$A </s>",
    "xlnet": "$A </s> <s>",
}


@dataclass(frozen=True)
class Architecture:
    """How to make a tiny classifier.

    Attributes:
        config: What its configuration has besides `COMMON`, or instead; None takes a key away.
        tokenizer: A key of `TEMPLATES`, or `canine` or `byt5`.
        pad: The padding token's id: 0, or 1 as in RoBERTa.
        offset: Embeddings of positions that come before a text's first.
        positions: Whether the configuration limits the tokens of a text.
        limit: How many it takes.
        shortest: How many words a text has at least, as transformers can't read less.
        side: Where the tokenizer pads.
        token_types: Whether the tokenizer gives token types.
        remembers: Whether reading a text changes what it makes of the next.
        model_type: Where the table's key isn't it.
    """

    config: dict[str, Any] = field(default_factory=dict)
    tokenizer: str = "encoder"
    pad: int = 0
    offset: int = 0
    positions: bool = True
    limit: int = LIMIT
    shortest: int = 1
    side: str = "right"
    token_types: bool = False
    remembers: bool = False
    model_type: str = ""


COMMON = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def _bert(**config: Any) -> Architecture:
    return Architecture(config, token_types=True)


def _roberta(**config: Any) -> Architecture:
    return Architecture(config, pad=1, offset=2)


def _decoder(**config: Any) -> Architecture:
    return Architecture(config, tokenizer="decoder")


def _llama(**config: Any) -> Architecture:
    return _decoder(**{"num_key_value_heads": 1, "head_dim": 8, **config})


def _experts(**config: Any) -> Architecture:
    return _llama(
        **{"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
           "moe_intermediate_size": 16, **config}
    )  # fmt: skip


def _latent(**config: Any) -> Architecture:
    """Multi-head latent attention, as DeepSeek's."""
    return _decoder(
        **{"num_key_value_heads": 2, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4,
           "qk_nope_head_dim": 4, "v_head_dim": 8, "head_dim": 4, "n_routed_experts": 4,
           "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
           **config}
    )  # fmt: skip


_SEQ2SEQ = {"d_model": 16, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}  # fmt: skip
_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_decoder_layers": 3,
       "num_heads": 2, "decoder_start_token_id": 0}  # fmt: skip
_SEEING = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
           "intermediate_size": 32, "image_size": 28, "patch_size": 14}  # fmt: skip
_WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]
_TEXT = {**COMMON, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": LIMIT,
         "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}  # fmt: skip
_NO_TEXT = dict.fromkeys(COMMON)


def _bart(**config: Any) -> Architecture:
    return Architecture({**_SEQ2SEQ, **config}, pad=1)


def _t5(tokenizer: str = "t5", **config: Any) -> Architecture:
    return Architecture({**_T5, **config}, tokenizer=tokenizer, positions=False)


ARCHITECTURES = {
    # Encoders.
    "albert": _bert(embedding_size=8),
    "bert": _bert(),
    # Texts that its blocks don't fill turn its block-sparse attention off, for good.
    "big_bird": replace(_bert(block_size=4, num_random_blocks=1), remembers=True, limit=64),
    "camembert": _roberta(),
    "canine": Architecture(
        {"num_hash_buckets": 64, "downsampling_rate": 2, "local_transformer_stride": 8,
         "vocab_size": None, "max_position_embeddings": 64},
        tokenizer="canine", token_types=True, limit=64,
    ),
    "convbert": _bert(embedding_size=16, conv_kernel_size=3),
    "data2vec-text": _roberta(),
    "deberta": _bert(relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "deberta-v2": _bert(relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "distilbert": Architecture(
        {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}
    ),
    "electra": _bert(embedding_size=8),
    "ernie": _bert(),
    "esm": Architecture({"token_dropout": True, "mask_token_id": 4}, pad=1, offset=2),
    "esmc": Architecture({"num_key_value_heads": 2, "head_dim": 8, "mask_token_id": 4}, pad=1),
    "eurobert": Architecture({"num_key_value_heads": 1, "head_dim": 8}),
    "flaubert": Architecture(
        {"emb_dim": 16, "n_layers": 3, "n_heads": 2}
    ),
    "fnet": _bert(),
    "funnel": Architecture(
        {"block_sizes": [1, 1, 1], "n_head": 2, "d_head": 8, "d_inner": 32,
         "num_hidden_layers": None},
        token_types=True, positions=False, shortest=4,
    ),
    "gte": Architecture({}, pad=1),
    "ibert": _roberta(),
    "jina_embeddings_v3": Architecture({}, pad=1),
    "layoutlm": _bert(max_2d_position_embeddings=16),
    "layoutlmv3": _roberta(
        coordinate_size=2, shape_size=4, max_2d_position_embeddings=32, input_size=32, patch_size=16
    ),
    "lilt": _roberta(hidden_size=24, max_2d_position_embeddings=16, channel_shrink_ratio=2),
    "longformer": _roberta(attention_window=[4, 8, 4]),
    "luke": _roberta(entity_vocab_size=8, entity_emb_size=8),
    "markuplm": _roberta(max_depth=4, xpath_unit_hidden_size=4, tag_pad_id=5, subs_pad_id=6,
                         max_xpath_tag_unit_embeddings=8, max_xpath_subs_unit_embeddings=8),
    "megatron-bert": _bert(),
    "mobilebert": _bert(embedding_size=8, intra_bottleneck_size=8, true_hidden_size=8,
                        num_feedforward_networks=2),
    "modernbert": Architecture(
        {"local_attention": 4, "global_attn_every_n_layers": 2, "cls_token_id": 2,
         "sep_token_id": 3}
    ),
    "mpnet": _roberta(),
    "nomic_bert": _bert(),
    "nystromformer": Architecture(
        {"num_landmarks": 24, "segment_means_seq_len": 24, "conv_kernel_size": 3}, token_types=True
    ),
    "perceiver": Architecture(
        {"d_model": 16, "d_latents": 16, "num_latents": 4, "num_blocks": 1,
         "num_self_attends_per_block": 2, "num_hidden_layers": None, "num_self_attention_heads": 2,
         "num_cross_attention_heads": 2}
    ),
    "reformer": Architecture(
        {"attn_layers": ["local", "lsh", "local"], "attention_head_size": 8,
         "feed_forward_size": 32,
         "axial_pos_shape": [4, 6], "axial_pos_embds_dim": [8, 8], "lsh_attn_chunk_length": 4,
         "local_attn_chunk_length": 4, "num_buckets": 2, "hash_seed": 0, "is_decoder": False},
        tokenizer="t5",
    ),
    "rembert": _bert(input_embedding_size=8, output_embedding_size=8),
    "roberta": _roberta(),
    "roberta-prelayernorm": _roberta(),
    "roc_bert": _bert(pronunciation_vocab_size=60, pronunciation_embed_dim=8, shape_vocab_size=60,
                      shape_embed_dim=8),
    "roformer": _bert(embedding_size=16),
    "squeezebert": _bert(embedding_size=16, q_groups=2, k_groups=2, v_groups=2,
                         post_attention_groups=1, intermediate_groups=2, output_groups=2),
    "tapas": Architecture(
        {"type_vocab_sizes": [3, 8, 8, 2, 8, 8, 4], "max_num_rows": 8, "max_num_columns": 8}
    ),
    "ultrabert": Architecture(
        {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 4, "prediction_head_size": 16}
    ),
    "xlm": Architecture({"emb_dim": 16, "n_layers": 3, "n_heads": 2}),
    "xlm-roberta": _roberta(),
    "xlm-roberta-xl": _roberta(),
    "xlnet": Architecture(
        {"n_layer": 3, "d_model": 16, "n_head": 2, "d_inner": 32},
        tokenizer="xlnet", positions=False, side="left", token_types=True,
    ),
    "xmod": Architecture({"languages": ["en_XX"], "default_language": "en_XX"}, pad=1, offset=2),
    "yoso": Architecture({"type_vocab_size": 2}, pad=1, token_types=True),
    # Decoders.
    "arcee": _llama(),
    "axk1": _latent(num_hidden_layers=3, mlp_layer_types=["dense", "sparse", "sparse"]),
    "axk2": _latent(num_hidden_layers=3, mlp_layer_types=["dense", "sparse", "sparse"],
                    index_topk=8, index_head_dim=8, index_n_heads=2),
    "biogpt": Architecture({}, tokenizer="decoder", pad=1),
    "bloom": Architecture({}, tokenizer="decoder", positions=False),
    "cohere_compass_text": _llama(
        sliding_window=4, layer_types=_WINDOWS,
        rope_parameters={kind: {"rope_type": "default", "rope_theta": 1e4} for kind in {*_WINDOWS}},
    ),
    "ctrl": _decoder(n_embd=16, n_layer=3, n_head=2, dff=32),
    "deepseek_v2": _latent(first_k_dense_replace=1),
    "deepseek_v3": _latent(first_k_dense_replace=1),
    "diffllama": _llama(num_key_value_heads=2),
    "doge": _llama(),
    "exaone4": _llama(sliding_window=4, layer_types=_WINDOWS),
    "falcon": _decoder(num_kv_heads=1),
    "gemma": _llama(),
    "gemma2": _llama(sliding_window=4, layer_types=_WINDOWS),
    "gemma3": Architecture(
        {**_NO_TEXT, "text_config": {**_TEXT, "sliding_window": 4, "layer_types": _WINDOWS},
         "vision_config": _SEEING, "mm_tokens_per_image": 4, "boi_token_index": 57,
         "eoi_token_index": 58, "image_token_index": 59},
        tokenizer="decoder",
    ),
    "gemma3_text": _llama(sliding_window=4, layer_types=_WINDOWS),
    "glm": _llama(),
    "glm4": _llama(),
    "gpt-sw3": _decoder(),
    "gpt2": _decoder(),
    "gpt_bigcode": _decoder(),
    "gpt_neo": _decoder(
        num_layers=3, attention_types=[[["global", "local", "global"], 1]], window_size=4,
        attention_layers=["global", "local", "global"]),
    "gpt_neox": _decoder(),
    "gpt_oss": _experts(
        sliding_window=4, layer_types=_WINDOWS,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4}),
    "gptj": _decoder(rotary_dim=4),
    "helium": _llama(),
    "hunyuan_v1_dense": _llama(),
    "hunyuan_v1_moe": _experts(moe_topk=2),
    "jamba": _experts(attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False,
                      mamba_d_state=4, mamba_dt_rank=4),
    "jetmoe": _experts(kv_channels=8, num_attention_heads=None, num_key_value_heads=2),
    "llama": _llama(),
    "minicpm3": _latent(),
    "minimax": _experts(block_size=4, layer_types=["linear_attention", "full_attention"] * 2,
                        num_hidden_layers=4),
    "ministral": _llama(sliding_window=4, layer_types=_WINDOWS),
    "ministral3": _llama(),
    "mistral": _llama(sliding_window=4),
    "mistral4": _latent(first_k_dense_replace=1, n_shared_experts=1),
    "mixtral": _experts(),
    "modernbert-decoder": Architecture(
        {"local_attention": 4, "global_attn_every_n_layers": 2}, tokenizer="decoder"),
    "mpt": _decoder(d_model=16, n_heads=2, n_layers=3, max_seq_len=24),
    "nemotron": _llama(),
    "olmo": _llama(),
    "olmo2": _llama(),
    "olmo3": _llama(sliding_window=4, layer_types=_WINDOWS),
    "openai-gpt": _decoder(),
    "opt": Architecture({"ffn_dim": 32, "word_embed_proj_dim": 8},
                        tokenizer="decoder", pad=1),
    "persimmon": _decoder(),
    "phi": _llama(),
    "phi3": _llama(),
    "phimoe": _experts(),
    "qwen2": replace(_llama(), tokenizer="qwen2"),
    "qwen2_moe": _experts(shared_expert_intermediate_size=16),
    "qwen3": _llama(),
    "qwen3_5_text": _llama(
        num_hidden_layers=4, layer_types=["linear_attention", "full_attention"] * 2,
        linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8),
    "qwen3_5": Architecture(
        {**_NO_TEXT,
         "text_config": {**_TEXT, "num_hidden_layers": 4, "linear_num_key_heads": 2,
                         "layer_types": ["linear_attention", "full_attention"] * 2,
                         "linear_num_value_heads": 2, "linear_key_head_dim": 8,
                         "linear_value_head_dim": 8},
         "vision_config": {"depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2,
                           "out_hidden_size": 16, "num_position_embeddings": 16, "patch_size": 4},
         "image_token_id": 56, "video_token_id": 57, "vision_start_token_id": 58,
         "vision_end_token_id": 59},
        tokenizer="qwen2",
    ),
    "qwen3_moe": _experts(),
    "qwen3_next": _experts(
        num_hidden_layers=4, layer_types=["linear_attention", "full_attention"] * 2,
        linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8, shared_expert_intermediate_size=16),
    "seed_oss": _llama(),
    "smollm3": _llama(),
    "stablelm": _llama(),
    "starcoder2": _llama(),
    "zamba": _decoder(
        num_hidden_layers=4, attention_hidden_size=32, attention_head_dim=16, num_key_value_heads=2,
        layers_block_type=["linear_attention", "hybrid", "linear_attention", "hybrid"],
        use_mamba_kernels=False, mamba_d_state=4, mamba_dt_rank=4),
    "zamba2": _decoder(
        num_hidden_layers=4, num_key_value_heads=2, use_mamba_kernels=False, mamba_d_state=4,
        layer_types=["linear_attention", "hybrid", "linear_attention", "hybrid"],
        layers_block_type=["linear_attention", "hybrid", "linear_attention", "hybrid"],
        n_mamba_heads=2, mamba_headdim=16, chunk_size=8, hybrid_layer_ids=[1, 3], adapter_rank=4),
    # Encoder-decoders.
    "bart": _bart(),
    "bigbird_pegasus": Architecture({**_SEQ2SEQ, "block_size": 4, "num_random_blocks": 1},
                                    tokenizer="t5", remembers=True, limit=64),
    "mbart": _bart(),
    "mt5": _t5(),
    "mvp": _bart(),
    "plbart": _bart(),
    "t5": _t5(),
    "t5gemma": Architecture(
        {**_NO_TEXT, **{part: {**_TEXT, "sliding_window": 4, "layer_types": _WINDOWS}
                        for part in ("encoder", "decoder")}}, tokenizer="t5"),
    "t5gemma2": Architecture(
        {**_NO_TEXT,
         "encoder": {"text_config": {**_TEXT, "sliding_window": 4, "layer_types": _WINDOWS},
                     "vision_config": _SEEING, "mm_tokens_per_image": 4, "boi_token_index": 57,
                     "eoi_token_index": 58, "image_token_index": 59},
         "decoder": {**_TEXT, "sliding_window": 4, "layer_types": _WINDOWS},
         "image_token_index": 59, "eoi_token_index": 58},
        tokenizer="t5"),
    "umt5": _t5(),
    # With a picture, or without one.
    "modernvbert": Architecture(
        {**_NO_TEXT,
         "text_config": {**COMMON, "model_type": "modernbert", "max_position_embeddings": LIMIT,
                         "local_attention": 4, "pad_token_id": 0},
         "vision_config": _SEEING, "image_token_id": 59}),
    "ultravbert": Architecture(
        {**_NO_TEXT,
         "text_config": {**_TEXT, "model_type": "ultrabert", "sliding_window": 4,
                         "prediction_head_size": 16},
         "vision_config": _SEEING, "image_token_id": 59}),
    # Bytes for words.
    "byt5": Architecture({**_T5, "vocab_size": 384}, tokenizer="byt5", positions=False,
                         model_type="t5"),
}  # fmt: skip


# What kd refuses before it begins, and a word of the reason.
NOT_EVALUATED: dict[str, str] = {}
NOT_CUT = {
    "big_bird": "attention.seed",
    "bigbird_pegasus": "self_attn.seed",
    "canine": "vocab_size",
    "diffllama": "depends on their position",
    "esm": "have different parameters",
    "esmc": "depends on their position",
    "flaubert": "no single stack",
    "funnel": "number of its layers",
    "jamba": "have different parameters",
    "lilt": "depends on their position",
    "minicpm3": "depends on their position",
    "minimax": "depends on a layer's position",
    "perceiver": "doesn't say how many",
    "qwen3_5": "can't read a text",
    "qwen3_5_text": "can't read a text",
    "qwen3_next": "can't read a text",
    "reformer": "can't read a text",
    "squeezebert": "depends on their position",
    "t5gemma": "no single stack",
    "t5gemma2": "no single stack",
    "xlm": "no single stack",
    "zamba": "can't read a text",
    "zamba2": "can't read a text",
}
NOT_EXPORTED: dict[str, str] = {
    "axk1": "can't translate",
    "axk2": "can't translate",
    "big_bird": "can't translate",
    "canine": "written in Python",
    "deepseek_v2": "can't translate",
    "deepseek_v3": "can't translate",
    "funnel": "can't read",
    "gpt_oss": "can't translate",
    "hunyuan_v1_moe": "can't translate",
    "jamba": "can't translate",
    "longformer": "can't translate",
    "mbart": "can't read",
    "minimax": "can't translate",
    "mistral4": "can't translate",
    "mixtral": "can't translate",
    "phimoe": "can't translate",
    "plbart": "can't read",
    "qwen2_moe": "can't translate",
    "qwen3_moe": "can't translate",
    "reformer": "can't translate",
    "xlnet": "can't translate",
    "zamba": "fixed axes",
}
# There is no comparing with these.
LEFT_OUT = {
    "layoutlmv2": "transformers needs detectron2, and a picture, to run it",
    "mra": "without its CUDA kernel transformers answers each text alike",
}


def build_config(kind: str, **changes: Any) -> Any:
    """The configuration of a tiny classifier."""
    it = ARCHITECTURES[kind]
    special = {"pad_token_id": it.pad, "bos_token_id": 2, "eos_token_id": 3}
    if it.pad == 1:
        special |= {"bos_token_id": 0, "eos_token_id": 2}
    wanted = {
        **COMMON,
        **special,
        "max_position_embeddings": it.limit + it.offset,
        **copy.deepcopy(it.config),
        "id2label": dict(enumerate(LABELS)),
        "label2id": {name: i for i, name in enumerate(LABELS)},
        **changes,
    }
    if it.tokenizer == "byt5":
        wanted["eos_token_id"] = 1
    if not it.positions:
        wanted.pop("max_position_embeddings")
    wanted = {key: value for key, value in wanted.items() if value is not None or key in changes}
    return AutoConfig.for_model(it.model_type or kind, **wanted)


def build_tokenizer(kind: str, limit: int, **changes: Any) -> Any:
    """A tokenizer that suits; `limit` is its `model_max_length`."""
    it = ARCHITECTURES[kind]
    most = {"model_max_length": limit, **changes}
    if it.tokenizer == "canine":
        return CanineTokenizer(**most)
    if it.tokenizer == "byt5":
        return ByT5Tokenizer(**most)
    if it.tokenizer == "qwen2":
        letters = ["<|endoftext|>", "Ġ", "w", *map(str, range(10))]
        return Qwen2Tokenizer(vocab={c: i for i, c in enumerate(letters)}, merges=[], **most)
    special = _SPECIAL[it.pad]
    vocabulary = {token: i for i, token in enumerate([*special, "<mask>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(token, vocabulary[token]) for token in ("<s>", "</s>")]
    inner.post_processor = processors.TemplateProcessing(
        single=TEMPLATES[it.tokenizer], special_tokens=ends
    )
    names = ["input_ids", *(["token_type_ids"] if it.token_types else []), "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", mask_token="<mask>",
        bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        model_input_names=names, **{"pad_token": "<pad>", "padding_side": it.side, **most},
    )  # fmt: skip


def build_model(config: Any) -> Any:
    """A random classifier of a configuration, the same each time."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                # As they begin, layers do next to nothing: a wrong one would not show.
                parameter.normal_(0, 0.5 if "embed" in name else 0.3)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def spread(model: Any, inputs: Sequence[Mapping[str, Tensor]], *, remembers: bool) -> None:
    """Change a classifier's last layer, so that its labels differ among inputs.

    A model that remembers is copied for each input: a short text changes BigBird for good.
    """
    count = model.config.num_labels
    last = [m for m in model.modules() if getattr(m, "out_features", 0) == count][-1]
    read: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, given: read.append(given[0]))

    def logits() -> Tensor:
        copies = (copy.deepcopy(model) if remembers else model for _ in inputs)
        return torch.cat([m(**one).logits for m, one in zip(copies, inputs, strict=True)])

    with torch.no_grad():
        logits()
        hook.remove()
        # What they have in common is taken away: not every last layer has a bias that could.
        common = torch.stack([one.reshape(-1, one.shape[-1])[-1] for one in read]).mean(0)
        last.weight.sub_(torch.outer(last.weight @ common, common) / common.square().sum())
        if last.bias is not None:
            last.bias.zero_()
        last.weight.mul_(2 / logits().std(0)[:, None])


def some_texts(count: int, seed: int, *, longest: int, shortest: int = 1) -> list[str]:
    """Random texts of very different lengths, from `shortest` to half as much again as `longest`.

    The last ones are longer than a model that takes `longest` tokens reads.
    """
    random = np.random.default_rng(seed)
    lengths = np.geomspace(shortest, 1.5 * longest, count).round().astype(int)
    return [" ".join(random.choice(WORDS, length)) for length in lengths]


def save(
    kind: str,
    folder: Path,
    *,
    limit: int | None = None,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "1GB",
    tokenizer: Mapping[str, Any] = {},
    **config: Any,
) -> Architecture:
    """Write a `save_pretrained` folder of a tiny classifier and its tokenizer.

    Args:
        kind: A key of `ARCHITECTURES`.
        folder: Where it goes.
        limit: The tokenizer's `model_max_length`, instead of what the model takes.
        dtype: Of the weights.
        max_shard_size: Of a file of weights.
        tokenizer: What the tokenizer is made with besides.
        config: Keys of the configuration, instead of the usual ones.
    """
    it = ARCHITECTURES[kind]
    model = build_model(build_config(kind, **config))
    reader = build_tokenizer(kind, limit or it.limit, **tokenizer)
    texts = some_texts(5, seed=1, shortest=it.shortest, longest=it.limit)
    cut = {"truncation": True, "max_length": it.limit, "return_tensors": "pt"}
    inputs = [reader(text, **cut) for text in texts]
    spread(model, inputs, remembers=it.remembers)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    reader.save_pretrained(folder)
    return it
