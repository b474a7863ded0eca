"""A small vocabulary made as Gemma 4's, as GGUF and with golden ids from the `tokenizers` package."""

import json
import random
from pathlib import Path

import gguf
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from . import golden, vocabulary

PIECES = 1536
CONTROL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|tool>", "<tool|>", "<|think|>", "<|turn>", "<turn|>"]
# Control pieces that converters mark as user-defined, to be seen in what a model answers.
VISIBLE = ["<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>', "<|channel>", "<channel|>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
RUNS = [char * n for char in "\n▁\t" for n in range(2, 32)]


def merges(trained: list[tuple[str, str]], pieces: set[str]) -> list[tuple[str, str]]:
    """The pairs in Gemma 4's way: runs of white space first, the longest before all, then for each trained piece every pair
    of pieces that spells it."""
    order = sorted(RUNS, key=lambda run: -len(run))
    order += dict.fromkeys(left + right for left, right in trained if left + right not in set(RUNS))
    return [
        (piece[:cut], piece[cut:])
        for piece in order
        for cut in range(len(piece) - 1, 0, -1)
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]


def train(seed: int = 4) -> tokenizers.Tokenizer:
    """A BPE model of merges over text with its spaces escaped, cut at newlines, with byte fallback."""
    rng = random.Random(seed)
    learner = tokenizers.Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁\n0-9]+|[0-9]|▁|\n"), "isolated")
    lines = vocabulary.corpus(rng) + [s for s in golden.STRINGS if len(set(s)) > 6] * 40
    learner.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=900, min_frequency=20, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    trained = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learnt["merges"]]
    trained = [(left, right) for left, right in trained if "\n" not in left + right]
    ascii_ = [chr(c) for c in range(33, 127)]
    single = ["\n", "\t", "▁"] + sorted({c for s in learnt["vocab"] for c in s if c not in "\n\t▁"} | set(ascii_))
    made = list(dict.fromkeys(left + right for left, right in trained))
    order = list(dict.fromkeys(CONTROL + VISIBLE + RUNS + BYTES + made + single))
    order += [f"<unused{n}>" for n in range(PIECES - len(order))]
    if len(order) != PIECES:
        raise RuntimeError(f"{len(order)} pieces")
    plain = set(order) - set(CONTROL) - set(VISIBLE) - set(BYTES)
    model = models.BPE(
        vocab={piece: i for i, piece in enumerate(order)},
        merges=merges(trained, plain), unk_token="<unk>", byte_fallback=True, fuse_unk=True,
    )  # fmt: skip
    out = tokenizers.Tokenizer(model)
    out.normalizer = normalizers.Replace(" ", "▁")
    out.pre_tokenizer = pre_tokenizers.Split(Regex("[^\n]+|\n+"), "isolated")
    out.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    # For prompts with their structure; `encode_special_tokens` turns the parsing of them off.
    out.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in CONTROL + VISIBLE])
    out.encode_special_tokens = True
    return out


def write(path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    """Writes the vocabulary as llama.cpp's converter does for Gemma 4, without any tensor."""
    model = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    kind = gguf.TokenType
    types = [
        kind.CONTROL if p in CONTROL else kind.USER_DEFINED if p in VISIBLE else kind.BYTE if p in BYTES else kind.NORMAL
        for p in pieces
    ]
    out = gguf.GGUFWriter(path, "gemma4")
    out.add_type("model")
    out.add_tokenizer_model("gemma4")
    out.add_token_list([p.encode() for p in pieces])
    out.add_token_scores([-1000.0] * len(pieces))
    out.add_token_types(types)
    out.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    out.add_bos_token_id(CONTROL.index("<bos>"))
    out.add_eos_token_id(CONTROL.index("<eos>"))
    out.add_unk_token_id(CONTROL.index("<unk>"))
    out.add_pad_token_id(CONTROL.index("<pad>"))
    out.add_add_bos_token(True)
    out.add_add_space_prefix(False)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def records(tokenizer: tokenizers.Tokenizer) -> list[dict]:
    """The ids of the hard strings and of what a vocabulary of this kind adds to them, as plain text."""
    more = CONTROL + VISIBLE + ["\n" * n for n in (30, 31, 32, 33, 62, 63, 95)] + [" " * n for n in (31, 32, 47, 64)]
    more += ["\t" * 40, "a\n\n\n \n\t\n  b", "<|turn>user\nHi<turn|>\n<|turn>model\n<|channel>thought\n<channel|>"]
    strings = list(dict.fromkeys(golden.STRINGS + more + golden.random_strings(5)))
    return [{"text": s, "ids": tokenizer.encode(s, add_special_tokens=False).ids} for s in strings]
