"""The families beyond Gemma 3 as GGUF: small random models of each, as GGUF and as the folders that they are published in.

Every model is written twice from the same weights, rounded to BF16: as llama.cpp's converter would write it, and as
`transformers` saves it (config.json and safetensors). So one golden file is the truth for both ways to load a model.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Gemma3TextModel,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    PreTrainedModel,
)

from . import attention, gemma, golden, vocabulary

PIECES = 448
TURNS_OF_4 = ("<|turn>", "<turn|>")
WINDOW = 16
GREEDY = 24
LOCAL, GLOBAL = "sliding_attention", "full_attention"
PROMPT = "The door code of the old bakery is X7-2041.\n\nWhere is the ladder?"
EMBEDDED = [
    ("query", "task: search result | query: ", "Where is the ladder?"),
    ("query", "task: search result | query: ", "What is the door code of the old bakery, and when does the bus leave?"),
    ("document", "title: none | text: ", "The ladder is in the shed."),
    ("document", "title: none | text: ", PROMPT),
    ("none", "", "a"),
]
NAMES = {
    **gemma.NAMES, "per_layer_input_gate": "inp_gate", "per_layer_projection": "proj",
    "post_per_layer_input_norm": "post_norm", "layer_scalar": "layer_output_scale",
}  # fmt: skip
GLOBALS = {
    "embed_tokens": "token_embd", "norm": "output_norm", "embed_tokens_per_layer": "per_layer_token_embd",
    "per_layer_model_projection": "per_layer_model_proj", "per_layer_projection_norm": "per_layer_proj_norm",
}  # fmt: skip
SMALL = {
    "vocab_size": PIECES, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 32, "sliding_window": WINDOW, "max_position_embeddings": 512, "tie_word_embeddings": True,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One small model and what a mistake in it would change."""

    name: str
    architecture: str
    build: Callable[[], PreTrainedModel]
    # Changes to a copy of the model whose logits must differ visibly, by what they stand for.
    mistakes: dict[str, Callable[[PreTrainedModel], None]]
    turns: tuple[str, str] = ("<start_of_turn>", "<end_of_turn>")
    seed: int = 1


def attending(config, how: str = attention.NAME):
    """`config` with this attention, which knows soft capping."""
    config._attn_implementation = how
    return config


def gemma2() -> PreTrainedModel:
    """Gemma 2: soft capping, local and global layers in turn, no norms of queries and keys."""
    config = Gemma2Config(
        **SMALL, num_hidden_layers=4, query_pre_attn_scalar=32,
        attn_logit_softcapping=4.0, final_logit_softcapping=12.0,
    )  # fmt: skip
    return Gemma2ForCausalLM(attending(config))


def gemma3() -> PreTrainedModel:
    """Gemma 3, whose global layer has linear RoPE scaling."""
    rope = {
        LOCAL: {"rope_type": "default", "rope_theta": 10_000.0},
        GLOBAL: {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
    }
    config = Gemma3TextConfig(**SMALL, num_hidden_layers=6, query_pre_attn_scalar=32, rope_parameters=rope)
    return Gemma3ForCausalLM(attending(config))


def gemma4(kinds: list[str], **change) -> PreTrainedModel:
    """Gemma 4's text model with these kinds of layers."""
    config = Gemma4TextConfig(
        **{**SMALL, "vocab_size_per_layer_input": PIECES, **change}, num_hidden_layers=len(kinds), layer_types=kinds,
        global_head_dim=64, final_logit_softcapping=12.0,
    )  # fmt: skip
    return Gemma4ForCausalLM(attending(config))


def gemma4_e() -> PreTrainedModel:
    """Gemma 4 as E2B is: embeddings for each layer, the last layers with the keys and values of earlier ones and a wider MLP."""
    kinds = [LOCAL, GLOBAL, LOCAL, GLOBAL]
    return gemma4(kinds, hidden_size_per_layer_input=32, num_kv_shared_layers=2, use_double_wide_mlp=True)


def gemma4_dense() -> PreTrainedModel:
    """Gemma 4 as 31B is: global layers with fewer heads of keys, which are their values too."""
    kinds = [LOCAL, GLOBAL, LOCAL, GLOBAL]
    return gemma4(
        kinds, hidden_size_per_layer_input=0, attention_k_eq_v=True, num_key_value_heads=2, num_global_key_value_heads=1
    )


def embedding() -> PreTrainedModel:
    """EmbeddingGemma's encoder: Gemma 3 that looks both ways."""
    config = Gemma3TextConfig(
        **SMALL, num_hidden_layers=3, query_pre_attn_scalar=32, layer_types=[LOCAL, GLOBAL, LOCAL], use_bidirectional_attention=True
    )
    return Gemma3TextModel(attending(config, "eager"))


def every(part: str, change: Callable) -> Callable[[PreTrainedModel], None]:
    """A mistake that does `change` to `part` of every layer that has it."""

    def apply(model: PreTrainedModel) -> None:
        for layer in model.model.layers:
            owner = layer
            *path, last = part.split(".")
            for name in path:
                owner = getattr(owner, name)
            if getattr(owner, last, None) is not None:
                change(owner, last)

    return apply


def put(value) -> Callable:
    """A change that puts `value` in the place."""
    return lambda owner, name: setattr(owner, name, value)


def config(name: str, value) -> Callable[[PreTrainedModel], None]:
    """A mistake in the configuration that is read while running."""
    return lambda model: setattr(model.config, name, value)


def unscaled(owner, name: str) -> None:
    """A change that leaves the layer's scale at 1."""
    getattr(owner, name).fill_(1.0)


def rotate_all(model: PreTrainedModel) -> None:
    """RoPE over whole heads in Gemma 4's global layers."""
    rotary = model.model.rotary_emb
    n = rotary.full_attention_inv_freq.numel()
    rotary.full_attention_inv_freq.copy_(1_000_000.0 ** (-torch.arange(n) / n))


FAMILIES = [
    Family(
        "gemma2", "gemma2", gemma2,
        {
            "no attention cap": every("self_attn.attn_logit_softcapping", put(None)), "no final cap": config("final_logit_softcapping", None),
            "window + 1": config("sliding_window", WINDOW + 1), "scale": every("self_attn.scaling", put(0.125)),
        },
        seed=11,
    ),
    Family("gemma3", "gemma3", gemma3, {"window + 1": config("sliding_window", WINDOW + 1)}, seed=6),
    Family(
        "gemma4-e", "gemma4", gemma4_e,
        {
            "no norm of values": every("self_attn.v_norm", put(torch.nn.Identity())), "rope over whole heads": rotate_all,
            "no scale of layers": every("layer_scalar", unscaled), "window + 1": config("sliding_window", WINDOW + 1),
            "no final cap": config("final_logit_softcapping", None), "scale": every("self_attn.scaling", put(0.125)),
            "no embeddings per layer": lambda m: m.model.embed_tokens_per_layer.weight.zero_(),
            "no projection per layer": lambda m: m.model.per_layer_model_projection.weight.zero_(),
        },
        TURNS_OF_4,
        seed=2,
    ),
    Family(
        "gemma4-dense", "gemma4", gemma4_dense,
        {
            "no norm of values": every("self_attn.v_norm", put(torch.nn.Identity())), "rope over whole heads": rotate_all,
            "no scale of layers": every("layer_scalar", unscaled), "window + 1": config("sliding_window", WINDOW + 1),
        },
        TURNS_OF_4,
        seed=5,
    ),
]  # fmt: skip
EMBEDDING = Family(
    "embeddinggemma", "gemma-embedding", embedding,
    {
        "window / 2": config("sliding_window", WINDOW // 2), "window / 2 + 2": config("sliding_window", WINDOW // 2 + 2),
        "causal": config("use_bidirectional_attention", False),
    },
)  # fmt: skip


@torch.no_grad()
def randomise(family: Family) -> PreTrainedModel:
    """The family's model with random weights that BF16 holds: norms away from their neutral value so that a wrong one shows,
    sharper attention, and a large output norm so that greedy choices have a clear margin."""
    model = family.build()
    torch.manual_seed(family.seed)
    # Gemma 4 multiplies with the weight of a norm, the earlier ones with 1 + weight; its scores have no other scale.
    neutral, sharp = (1.0, 1.2) if family.architecture == "gemma4" else (0.0, 0.6)
    values = {**dict(model.named_parameters()), **{k: b for k, b in model.named_buffers() if k.endswith("layer_scalar")}}
    for key, p in values.items():
        if key.endswith("layer_scalar"):
            p.uniform_(0.6, 1.1)
        elif p.dim() == 2:
            # A quiet embedding: with a loud one, the tied head answers every token with itself.
            p.normal_(0, p.shape[1] ** -0.5 * (0.4 if "embed_tokens" in key else 1.0))
        elif "q_norm" in key or "k_norm" in key:
            p.normal_(sharp, 0.15)
        else:
            p.normal_(neutral + (3.0 if key in ("model.norm.weight", "norm.weight") else 0.0), 0.25)
        p.copy_(p.bfloat16().float())
    return model.eval()


@torch.no_grad()
def check(family: Family, model: PreTrainedModel, run: Callable, report: Callable[[str], None]) -> None:
    """Refuses a model whose results would hide one of the mistakes."""
    truth, shown = run(model), {}
    for name, mistake in family.mistakes.items():
        other = copy.deepcopy(model)
        mistake(other)
        shown[name] = round(float((run(other) - truth).abs().max()), 4)
    report(f"{family.name}: mistakes change the result by {shown}")
    if min(shown.values()) < 0.01:
        raise RuntimeError("a mistake would not show: choose another seed")


@torch.no_grad()
def logits(family: Family, model: PreTrainedModel, sp: sentencepiece.SentencePieceProcessor, goldens: Path, report) -> None:
    """Writes the golden logits at every position and the greedy text of a generating family."""
    ids = [sp.bos_id()] + sp.encode(PROMPT)
    if len(ids) < 2 * WINDOW:
        raise RuntimeError("the prompt is too short for the window")
    check(family, model, lambda m: m(torch.tensor([ids]), use_cache=False).logits[0, -1], report)
    report(f"{family.name}: {attention.compare(model, ids)}")
    result = model(torch.tensor([ids]), use_cache=False).logits[0]
    greedy = gemma.greedy(model, ids, GREEDY, set())
    top = model(torch.tensor([ids + greedy]), use_cache=False).logits[0, len(ids) - 1 : -1].topk(2).values
    margin = float((top[:, 0] - top[:, 1]).min())
    report(f"{family.name}: {len(ids)} tokens, logits rms {result.pow(2).mean().sqrt():.2f}, greedy margin {margin:.3f}, {greedy}")
    if margin < 0.01 or min(greedy) <= vocabulary.END_OF_TURN or len(set(greedy)) < 8:
        raise RuntimeError("a greedy choice is too close, a control token, or always the same: choose another seed")
    file = f"{family.name}.f32"
    (goldens / file).write_bytes(result.numpy().astype("<f4").tobytes())
    record = {
        "model": f"{family.name}.gguf", "folder": family.name, "prompt": PROMPT, "tokens": ids, "logits": file,
        "shape": list(result.shape), "greedy": {"tokens": greedy, "text": sp.decode(greedy), "least_margin": round(margin, 4)},
    }  # fmt: skip
    golden.write_json(goldens / f"{family.name}.json", record)


@torch.no_grad()
def vectors(family: Family, model: PreTrainedModel, dense: list, sp: sentencepiece.SentencePieceProcessor, goldens: Path, report):
    """Writes the golden vectors of EmbeddingGemma: the mean of all tokens, their markers and the prompt included, through two
    linear layers, normalised; and cut to fewer numbers, normalised again."""

    def mean(m: PreTrainedModel, ids: list[int]) -> torch.Tensor:
        return m(torch.tensor([ids]), use_cache=False).last_hidden_state[0].mean(0)

    records = []
    for kind, prompt, text in EMBEDDED:
        ids = [sp.bos_id(), *sp.encode(prompt + text), sp.eos_id()]
        pooled = mean(model, ids)
        vector = pooled
        for weight in dense:
            vector = weight @ vector
        full = vector / vector.norm()
        cut = {str(n): (full[:n] / full[:n].norm()).tolist() for n in (32, 16)}
        records.append(
            {"kind": kind, "text": text, "tokens": ids, "mean": pooled.tolist(), "vector": full.tolist(), "cut": cut}
        )
    longest = max((r["tokens"] for r in records), key=len)
    check(family, model, lambda m: mean(m, longest), report)
    golden.write_json(goldens / f"{family.name}.json", records)


def merges(sp: sentencepiece.SentencePieceProcessor) -> list[tuple[str, str]]:
    """The vocabulary's merges in the order in which SentencePiece prefers them."""
    ids = {sp.id_to_piece(i): i for i in range(sp.vocab_size()) if not (sp.is_control(i) or sp.is_byte(i) or sp.is_unknown(i))}
    found = []
    for piece in sorted(ids, key=lambda p: (-sp.get_score(ids[p]), -len(p), ids[p])):
        splits = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        found += sorted((s for s in splits if s[0] in ids and s[1] in ids), key=lambda s: (ids[s[0]], ids[s[1]]))
    return found


def tokenizer_json(sp: sentencepiece.SentencePieceProcessor) -> dict:
    """The vocabulary as the `tokenizers` library reads it, as published with the family."""

    def added(i: int) -> dict:
        return {
            "id": i, "content": sp.id_to_piece(i), "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": sp.is_control(i) or sp.is_unknown(i),
        }  # fmt: skip

    pieces = range(sp.vocab_size())
    own = [i for i in pieces if sp.is_control(i) or sp.is_unknown(i) or sp.id_to_piece(i) in vocabulary.USER_DEFINED]
    space = {"String": " "}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [added(i) for i in own],
        "normalizer": {"type": "Replace", "pattern": space, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": space, "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [sp.bos_id()], "tokens": ["<bos>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": {sp.id_to_piece(i): i for i in pieces}, "merges": merges(sp),
        },
    }  # fmt: skip


def published(family: Family, model: PreTrainedModel) -> dict:
    """config.json as the family's models are published: older ones with flat RoPE keys, Gemma 4 with the text model's part in
    `text_config`."""
    c = model.config
    kept = [
        "attention_bias", "bos_token_id", "eos_token_id", "hidden_activation", "hidden_size", "intermediate_size",
        "max_position_embeddings", "num_attention_heads", "num_hidden_layers", "pad_token_id", "rms_norm_eps",
        "tie_word_embeddings", "vocab_size",
    ]  # fmt: skip
    out = {key: getattr(c, key) for key in kept}
    of_4 = family.architecture == "gemma4"
    near = c.per_layer_config[c.layer_types.index(LOCAL)] if of_4 else c
    out |= {"head_dim": near.head_dim, "num_key_value_heads": near.num_key_value_heads}
    out["sliding_window"] = WINDOW  # `c` may have it in another measure
    if of_4:
        out |= {key: getattr(c, key) for key in (
            "attention_k_eq_v", "enable_moe_block", "final_logit_softcapping", "hidden_size_per_layer_input", "layer_types",
            "num_kv_shared_layers", "rope_parameters", "use_bidirectional_attention", "use_double_wide_mlp",
            "vocab_size_per_layer_input",
        )}  # fmt: skip
        whole = c.per_layer_config[c.layer_types.index(GLOBAL)]
        out["global_head_dim"] = whole.head_dim
        out["num_global_key_value_heads"] = whole.num_key_value_heads if c.attention_k_eq_v else None
        out["model_type"] = "gemma4_text"
        return {"architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4", "text_config": out}
    out |= {"architectures": [type(model).__name__], "query_pre_attn_scalar": c.query_pre_attn_scalar, "model_type": c.model_type}
    if family.name == "gemma3":  # as transformers 5 writes it
        return out | {"rope_parameters": c.rope_parameters, "layer_types": c.layer_types}
    if family.architecture == "gemma2":
        caps = {key: getattr(c, key) for key in ("attn_logit_softcapping", "final_logit_softcapping")}
        return out | {"rope_theta": 10_000.0, **caps}
    return out | {
        "layer_types": c.layer_types, "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "rope_scaling": None,
        "attn_logit_softcapping": None, "final_logit_softcapping": None, "use_bidirectional_attention": True,
    }  # fmt: skip


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What a file of the model holds: not the head, which is the embedding."""
    return {key: t for key, t in model.state_dict().items() if key != "lm_head.weight"}


def write_folder(folder: Path, family: Family, model: PreTrainedModel, sp, report) -> None:
    """Writes the model as it is published, and reads it back with `transformers`."""
    folder.mkdir(parents=True, exist_ok=True)
    json_file(folder / "config.json", published(family, model))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(sp), ensure_ascii=False, separators=(",", ":")) + "\n")
    tensors = {key: t.bfloat16().contiguous() for key, t in weights(model).items()}
    if family.architecture == "gemma4":
        tensors = {key.replace("model.", "model.language_model.", 1): t for key, t in tensors.items()}
    if family.name == "gemma4-e":
        keys = sorted(tensors)
        parts = [keys[: len(keys) // 2], keys[len(keys) // 2 :]]
        names = [f"model-{n + 1:05}-of-{len(parts):05}.safetensors" for n in range(len(parts))]
        for name, part in zip(names, parts, strict=True):
            save_file({key: tensors[key] for key in part}, folder / name, {"format": "pt"})
        total = sum(t.numel() * t.element_size() for t in tensors.values())
        places = {key: name for name, part in zip(names, parts, strict=True) for key in part}
        json_file(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})
    else:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    if family.architecture == "gemma4":  # whose published form has the other modalities too
        again = Gemma4ForCausalLM(attending(Gemma4TextConfig(**published(family, model)["text_config"]))).eval()
        again.load_state_dict(model.state_dict())
    else:
        again = type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation=model.config._attn_implementation).eval()
    with torch.no_grad():
        ids = torch.arange(2 * WINDOW + 6)[None] + 7
        same = torch.equal(again(ids, use_cache=False)[0], model(ids, use_cache=False)[0])
    if not same:
        raise RuntimeError(f"{folder} is another model than was written")
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    report(f"{folder}: {sum(f.stat().st_size for f in folder.rglob('*') if f.is_file()):,} bytes")


def json_file(path: Path, value) -> None:
    """Writes indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_sentence_transformer(folder: Path, dense: list[torch.Tensor], width: int) -> None:
    """Writes what makes an encoder's folder one of sentence-transformers."""
    modes = ["cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
    pooling = {f"pooling_mode_{m}": False for m in modes} | {"pooling_mode_mean_tokens": True}
    json_file(folder / "1_Pooling/config.json", {"word_embedding_dimension": width, **pooling, "include_prompt": True})
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Dense", "Dense"), ("4_Normalize", "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    json_file(folder / "modules.json", modules)
    prompts = {"query": EMBEDDED[0][1], "document": EMBEDDED[2][1]}
    json_file(folder / "config_sentence_transformers.json", {"prompts": prompts, "similarity_fn_name": "cosine"})
    json_file(folder / "sentence_bert_config.json", {"max_seq_length": SMALL["max_position_embeddings"], "do_lower_case": False})
    for n, weight in enumerate(dense, 2):
        outputs, inputs = weight.shape
        json_file(
            folder / f"{n}_Dense/config.json",
            {
                "in_features": inputs, "out_features": outputs, "bias": False,
                "activation_function": "torch.nn.modules.linear.Identity",
            },
        )  # fmt: skip
        file = folder / f"{n}_Dense/model.safetensors"
        save_file({"linear.weight": weight.contiguous()}, file, {"format": "pt"})
        file.chmod(0o644)


def write_gguf(path: Path, family: Family, model: PreTrainedModel, sp, dense: list[torch.Tensor]) -> None:
    """Writes the model as llama.cpp's converter does."""
    c, arch = model.config, family.architecture
    out = gguf.GGUFWriter(path, arch)
    out.add_type("model")
    out.add_name(f"Engram {family.name}")
    out.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    out.add_quantization_version(gguf.GGML_QUANT_VERSION)
    out.add_context_length(c.max_position_embeddings)
    out.add_embedding_length(c.hidden_size)
    out.add_block_count(c.num_hidden_layers)
    out.add_head_count(c.num_attention_heads)
    out.add_layer_norm_rms_eps(c.rms_norm_eps)
    out.add_sliding_window(WINDOW)
    if arch == "gemma4":
        describe_gemma4(out, c)
    else:
        out.add_feed_forward_length(c.intermediate_size)
        out.add_head_count_kv(c.num_key_value_heads)
        out.add_key_length(c.head_dim)
        out.add_value_length(c.head_dim)
        if arch == "gemma2":
            out.add_attn_logit_softcapping(c.attn_logit_softcapping)
            out.add_final_logit_softcapping(c.final_logit_softcapping)
        else:
            describe_rope(out, c)
    if arch == "gemma-embedding":
        # The converter leaves the pattern out, being that of the one published model: every sixth layer is global.
        out.add_sliding_window_pattern([kind == LOCAL for kind in c.layer_types])
        out.add_pooling_type(gguf.PoolingType.MEAN)
        for n, weight in enumerate(dense, 2):
            out.add_dense_features_dims(f"dense_{n}", weight.shape[1], weight.shape[0])
    describe_vocabulary(out, family, sp)
    for key, tensor in weights(model).items():
        if tensor.dim() < 2 and arch != "gemma4":
            tensor = tensor + 1
        add_tensor(out, tensor_name(key), tensor)
    for n, weight in enumerate(dense, 2):
        add_tensor(out, f"dense_{n}.weight", weight)
    if arch == "gemma4":
        rotated = model.model.rotary_emb.full_attention_inv_freq != 0
        add_tensor(out, "rope_freqs.weight", torch.where(rotated, 1.0, 1e30))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def describe_rope(out: gguf.GGUFWriter, c) -> None:
    """RoPE of Gemma 3 and 4."""
    rope = c.rope_parameters[GLOBAL]
    out.add_rope_freq_base(rope["rope_theta"])
    out.add_rope_freq_base_swa(c.rope_parameters[LOCAL]["rope_theta"])
    if rope["rope_type"] == "linear":
        out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        out.add_rope_scaling_factor(rope["factor"])


def describe_gemma4(out: gguf.GGUFWriter, c) -> None:
    """What Gemma 4 has for itself."""
    local = [kind == LOCAL for kind in c.layer_types]
    layers = [c.per_layer_config[i] for i in range(c.num_hidden_layers)]
    near, whole = layers[local.index(True)], layers[local.index(False)]
    shared = c.num_hidden_layers - c.num_kv_shared_layers
    ffn = c.intermediate_size
    out.add_feed_forward_length([ffn if i < shared else 2 * ffn for i in range(len(local))] if c.use_double_wide_mlp else ffn)
    out.add_head_count_kv([layer.num_key_value_heads for layer in layers] if c.attention_k_eq_v else near.num_key_value_heads)
    describe_rope(out, c)
    out.add_key_length(whole.head_dim)
    out.add_value_length(whole.head_dim)
    out.add_key_length_swa(near.head_dim)
    out.add_value_length_swa(near.head_dim)
    out.add_rope_dimension_count(whole.head_dim)
    out.add_rope_dimension_count_swa(near.head_dim)
    out.add_sliding_window_pattern(local)
    out.add_shared_kv_layers(c.num_kv_shared_layers)
    out.add_embedding_length_per_layer_input(c.hidden_size_per_layer_input)
    out.add_final_logit_softcapping(c.final_logit_softcapping)


def describe_vocabulary(out: gguf.GGUFWriter, family: Family, sp: sentencepiece.SentencePieceProcessor) -> None:
    """The tokenizer: SentencePiece's with scores, or Gemma 4's with merges and no scores worth the name."""
    if family.architecture != "gemma4":
        gemma.vocabulary(out, sp, PIECES)
        if family.architecture == "gemma-embedding":
            out.add_add_eos_token(True)  # in place of the False there
        return
    kind = gguf.TokenType
    types = [
        kind.CONTROL if sp.is_control(i) or sp.is_unknown(i) else kind.BYTE if sp.is_byte(i) else kind.NORMAL for i in range(PIECES)
    ]
    out.add_tokenizer_model("gemma4")
    out.add_token_list([sp.id_to_piece(i).encode() for i in range(PIECES)])
    out.add_token_scores([-1000.0] * PIECES)
    out.add_token_types(types)
    out.add_token_merges([f"{left} {right}" for left, right in merges(sp)])
    out.add_bos_token_id(sp.bos_id())
    out.add_eos_token_id(sp.eos_id())
    out.add_unk_token_id(sp.unk_id())
    out.add_pad_token_id(sp.pad_id())
    out.add_add_space_prefix(False)
    out.add_add_bos_token(True)


def tensor_name(key: str) -> str:
    """The GGUF name of a tensor of the transformers model."""
    key = key.removeprefix("model.").removesuffix(".weight")
    if not key.startswith("layers."):
        return f"{GLOBALS[key]}.weight"
    _, layer, rest = key.split(".", 2)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def add_tensor(out: gguf.GGUFWriter, name: str, tensor: torch.Tensor) -> None:
    """Matrices as BF16, all else as F32."""
    data = tensor.detach().float().contiguous().numpy()
    if tensor.dim() == 2:
        kind = gguf.GGMLQuantizationType.BF16
        out.add_tensor(name, gguf.quantize(data, kind), raw_dtype=kind)
    else:
        out.add_tensor(name, data)


def make(models: Path, goldens: Path, report: Callable[[str], None]) -> None:
    """Makes all of it."""
    vocabularies = {}
    for turns in {f.turns for f in FAMILIES}:
        vocabularies[turns] = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.train(pieces=PIECES, turns=turns))
    for family in [*FAMILIES, EMBEDDING]:
        sp = vocabularies[family.turns]
        model = randomise(family)
        dense = []
        if family is EMBEDDING:
            width = model.config.hidden_size
            dense = [torch.randn(2 * width, width), torch.randn(width, 2 * width)]
            dense = [(w * w.shape[1] ** -0.5).bfloat16().float() for w in dense]
            vectors(family, model, dense, sp, goldens, report)
        else:
            logits(family, model, sp, goldens, report)
        path = models / f"{family.name}.gguf"
        write_gguf(path, family, model, sp, dense)
        report(f"{path}: {path.stat().st_size:,} bytes")
        write_folder(models / family.name, family, model, sp, report)
        if dense:
            write_sentence_transformer(models / family.name, dense, model.config.hidden_size)
