"""Small Gemma 3 text models in `transformers`, and the GGUF files that llama.cpp's converter would write for them."""

from pathlib import Path

import gguf
import numpy
import sentencepiece
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from .vocabulary import USER_DEFINED

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else "
    "message['role']) + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}


def build(
    *,
    vocabulary: int,
    width: int,
    feed_forward: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    window: int,
    context: int,
    global_scaling: float | None = None,
    attention: str = "eager",
) -> Gemma3ForCausalLM:
    """An untrained model. `global_scaling` is the linear RoPE scaling of the global layers (every sixth)."""
    scaling = {"rope_type": "linear", "factor": global_scaling} if global_scaling else {"rope_type": "default"}
    config = Gemma3TextConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=feed_forward, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim, query_pre_attn_scalar=head_dim,
        sliding_window=window, max_position_embeddings=context, tie_word_embeddings=True,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_theta": 1_000_000.0, **scaling},
        },
    )  # fmt: skip
    config._attn_implementation = attention
    expected = ["sliding_attention" if (i + 1) % 6 else "full_attention" for i in range(layers)]
    if config.layer_types != expected:
        raise RuntimeError(f"this version of transformers places the global layers elsewhere: {config.layer_types}")
    return Gemma3ForCausalLM(config)


def half(model: Gemma3ForCausalLM) -> Gemma3ForCausalLM:
    """Rounds the matrices to F16, so that the reference has the same weights as an F16 file."""
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 2:
                p.copy_(p.half().float())
    return model


def write(path: Path, model: Gemma3ForCausalLM, sp: sentencepiece.SentencePieceProcessor, kind: str, name: str) -> None:
    """Writes `model` as GGUF with its matrices as `kind` and its norms, as 1 + w, in F32."""
    c = model.config
    quantization, file_type = TYPES[kind]
    out = gguf.GGUFWriter(path, "gemma3")
    out.add_type("model")
    out.add_name(name)
    out.add_file_type(file_type)
    out.add_quantization_version(gguf.GGML_QUANT_VERSION)
    out.add_context_length(c.max_position_embeddings)
    out.add_embedding_length(c.hidden_size)
    out.add_block_count(c.num_hidden_layers)
    out.add_feed_forward_length(c.intermediate_size)
    out.add_head_count(c.num_attention_heads)
    out.add_head_count_kv(c.num_key_value_heads)
    out.add_layer_norm_rms_eps(c.rms_norm_eps)
    out.add_key_length(c.head_dim)
    out.add_value_length(c.head_dim)
    out.add_sliding_window(c.sliding_window)
    rope = c.rope_parameters["full_attention"]
    out.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        out.add_rope_scaling_factor(rope["factor"])
    vocabulary(out, sp, c.vocab_size)
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight":  # tied
            continue
        matrix = tensor.dim() == 2
        data = tensor.float().numpy() if matrix else tensor.float().numpy() + numpy.float32(1)
        to = quantization if matrix else gguf.GGMLQuantizationType.F32
        if to == gguf.GGMLQuantizationType.F32:
            out.add_tensor(tensor_name(key), data)
        else:
            out.add_tensor(tensor_name(key), gguf.quantize(data, to), raw_dtype=to)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def tensor_name(key: str) -> str:
    """The GGUF name of a tensor of the transformers model."""
    if key == "model.embed_tokens.weight":
        return "token_embd.weight"
    if key == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, rest = key.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def vocabulary(out: gguf.GGUFWriter, sp: sentencepiece.SentencePieceProcessor, size: int) -> None:
    """Writes the tokenizer as llama.cpp's converter does for a SentencePiece model."""
    pieces, scores, types = [], [], []
    for i in range(size):
        pieces.append(sp.id_to_piece(i).encode())
        scores.append(sp.get_score(i))
        if sp.is_unknown(i):
            types.append(gguf.TokenType.UNKNOWN)
        elif sp.is_control(i):
            types.append(gguf.TokenType.CONTROL)
        elif sp.is_unused(i):
            types.append(gguf.TokenType.UNUSED)
        elif sp.is_byte(i):
            types.append(gguf.TokenType.BYTE)
        else:
            # The processor does not tell these two apart.
            types.append(gguf.TokenType.USER_DEFINED if pieces[-1].decode() in USER_DEFINED else gguf.TokenType.NORMAL)
    out.add_tokenizer_model("llama")
    out.add_tokenizer_pre("default")
    out.add_token_list(pieces)
    out.add_token_scores(scores)
    out.add_token_types(types)
    out.add_bos_token_id(sp.bos_id())
    out.add_eos_token_id(sp.eos_id())
    out.add_unk_token_id(sp.unk_id())
    out.add_pad_token_id(sp.pad_id())
    out.add_add_bos_token(True)
    out.add_add_eos_token(False)
    out.add_add_space_prefix(False)
    out.add_chat_template(CHAT_TEMPLATE)


@torch.no_grad()
def greedy(model: Gemma3ForCausalLM, ids: list[int], count: int, stop: set[int]) -> list[int]:
    """The greedy continuation, each token from a forward pass over everything before it: slow, and no cache to get wrong.
    Stops before a token of `stop`."""
    out: list[int] = []
    while len(out) < count:
        logits = model(torch.tensor([ids + out]), use_cache=False).logits[0, -1]
        token = int(logits.argmax())
        if token in stop:
            break
        out.append(token)
    return out
