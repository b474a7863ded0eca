"""Attention as Engram's engine computes it, for transformers: queries, keys, values and weights are rounded to bf16.

The golden logits come from models with this attention, so that they can be compared closely: what a test allows is then what the
order of sums and the place of a rounding change, not what bf16 loses. `compare` says how much that is.
"""

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "engram_bf16"


def bf16(x: torch.Tensor) -> torch.Tensor:
    """The nearest bf16 of each number, as f32."""
    return x.bfloat16().float()


def attention(module, query, key, value, attention_mask, scaling=None, softcap=None, **_):
    """The same arguments and results as the functions of transformers; without dropout."""
    groups = module.num_key_value_groups
    key, value = (bf16(x).repeat_interleave(groups, 1) for x in (key, value))
    scores = bf16(query) @ key.transpose(2, 3) * (module.head_dim**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, :, : key.shape[-2]]
    # Weights are relative to the largest when they are rounded, and divided by their sum at the end.
    weights = bf16(torch.exp(scores - scores.max(-1, keepdim=True).values))
    mixed = (weights @ value) / weights.sum(-1, keepdim=True)
    return mixed.transpose(1, 2).contiguous(), weights


ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, eager_mask)


@torch.no_grad()
def compare(model, ids: list[int]) -> str:
    """What bf16 in attention changes in the logits of all positions."""
    rounded = model(torch.tensor([ids]), use_cache=False).logits[0]
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    plain = model(torch.tensor([ids]), use_cache=False).logits[0]
    model.set_attn_implementation(before)
    difference = (rounded - plain).abs()
    return f"bf16 in attention changes logits by {difference.mean():.4f} on average, {difference.max():.3f} at most"
