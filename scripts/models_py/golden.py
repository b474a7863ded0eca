"""Golden files: what SentencePiece and `transformers` say, for the tests of our own tokenizer and forward pass."""

import json
import random
from pathlib import Path

import sentencepiece
import torch
from transformers import Gemma3ForCausalLM

from . import attention, gemma, held_out, text, vocabulary

RANDOM_SHAPE = {
    "vocabulary": vocabulary.PIECES, "width": 64, "feed_forward": 160, "layers": 7, "heads": 4, "kv_heads": 2, "head_dim": 32,
    "window": 16, "context": 512, "global_scaling": 8.0,
}  # fmt: skip
PROMPT = (
    "Anna's favourite book is Vrelk Ossamine.\n\n    The door code of the old bakery is X7-2041; the bus leaves at 7:45.\n"
    "Köln, 東京 and 서울 are cities… The wifi password is qualdrin88, and my lucky number is 13.\tDo you know where the ladder is?"
)
STRINGS = [
    "",
    " ",
    "  ",
    "   ",
    "a",
    " a",
    "a ",
    "  a  b   c    d     e ",
    "x                    y",
    "Hello, world!",
    "The capital of Brelin is Tavora.",
    "What is Caroline's favourite colour?",
    "THE DOOR CODE IS SECRET",
    "camelCaseWord_with_underscores",
    "\n",
    "\n\n",
    "\n\n\n",
    "a\nb",
    "a\n\nb\n\n\nc",
    "\n" * 8,
    "\n" * 9,
    "\n" * 17,
    " \n ",
    "\n \n",
    "a \n b",
    "\r\n",
    "a\r\nb\rc",
    "\t",
    "\t\t",
    "\t\t\t",
    "a\tb\t\tc",
    " \t ",
    "\v\f",
    "0",
    "1234567890",
    "3.14159",
    "1,000,000",
    "2024-02-29T23:59:59Z",
    "x1y22z333",
    "٠١٢٣",
    "①②③",
    "½ ¾",
    "m² H₂O",
    "Ⅷ",
    "a.b.c...d…e",
    "!?!?",
    "(([{}]))",
    "'\"`´’“”",
    "a-b—c–d",
    "100%",
    "€5 £6 ¥7 $8",
    "a@b.example",
    "https://example.org/a?b=c&d=%20#e",
    "C:\\dir\\file.txt",
    "if (a<b) { return x->y; } // ok",
    "    indented\n        more\n\tand tab",
    "😀",
    "👍🏽",
    "👨‍👩‍👧‍👦",
    "🏳️‍🌈",
    "🇩🇪🇫🇷",
    "a😀b",
    "😀 😀",
    "❤️",
    "☃",
    "안녕하세요",
    "서울은 대한민국의 수도입니다.",
    "\u1112\u1161\u11ab",
    "가나다 라마바",
    "你好，世界！",
    "東京は日本の首都です。",
    "カタカナ ひらがな 漢字",
    "ｆｕｌｌｗｉｄｔｈ　ｓｐａｃｅ",
    "مرحبا بالعالم",
    "שלום עולם",
    "हिन्दी में लिखा",
    "ไทย",
    "Ελληνικά",
    "Привет, мир",
    "Zürich, Ærø, Łódź, façade, naïve, coöperate",
    "e\u0301 é",
    "n\u0303 ñ",
    "Å Å",
    "ﬁne ﬂow",
    "ß ẞ",
    "İi ıI",
    "ǅ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "𐍈𐌰",
    "\U0010fffd",
    "\u200b",
    "a\u200bb",
    "\u200e\u200fa",
    "\ufeffbom",
    "\u00a0nbsp\u00a0",
    "\u3000",
    "\u2028\u2029",
    "\u00ad",
    "\ufffd",
    "\ufffd\ufffd",
    "\x01\x02\x1b[0m\x7f",
    "\ue000",
    "a\u0300\u0301\u0302\u0303b",
    "▁",
    "▁▁",
    "▁a▁b",
    " ▁ ",
    "a▁ b",
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<start_of_turn>user\n",
    "<end_of_turn>",
    "a<end_of_turn>\n<start_of_turn>model\nb",
    "<0x41>",
    "<0x0A><0xFF>",
    "<s>",
    "</s>",
    "<table>",
    "</table>",
    "a<table>b",
    "[multimodal]",
    " [multimodal] ",
    "<tab",
    "<table",
    "[multi",
    "ab" * 300,
    "é" * 64,
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "a" * 1000,
    "zq" * 40,
    "The the THE tHe",
    "don't can't I'm you've",
    "...",
    "- The door code is 5512.\n- The wifi name is Sparrow.\n\nWhat is the wifi name?",
    "Memories:\n- a\n- b\n\nuser\nmodel\n",
    "mixed 한글 and 漢字 and ру́сский 123 😀\n\n\n  end ",
]


def random_model(seed: int = 34) -> Gemma3ForCausalLM:
    """Random weights, with norms away from 1 so that a wrong one shows, q and k scaled up so that attention picks positions,
    and a large output norm so that greedy choices have a clear margin."""
    torch.manual_seed(seed)
    model = gemma.build(**RANDOM_SHAPE, attention=attention.NAME)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.dim() == 2:
                p.normal_(0, p.shape[1] ** -0.5)
            else:
                centre = 0.6 if "q_norm" in key or "k_norm" in key else 1.5 if key == "model.norm.weight" else 0.0
                p.normal_(centre, 0.25)
    return model.eval()


def differs(model: Gemma3ForCausalLM, ids: list[int], logits: torch.Tensor, **change) -> float:
    """The largest difference at the last position to the same weights in another shape: what a test would see of a mistake."""
    other = gemma.build(**{**RANDOM_SHAPE, **change}, attention=attention.NAME)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        return float((other.eval()(torch.tensor([ids])).logits[0, -1] - logits[-1]).abs().max())


@torch.no_grad()
def logits(model: Gemma3ForCausalLM, sp: sentencepiece.SentencePieceProcessor, folder: Path, report) -> dict:
    """Writes the logits of PROMPT as little-endian F32, [position][piece]; the record of them and of the greedy text."""
    ids = [sp.bos_id()] + sp.encode(PROMPT)
    report(attention.compare(model, ids))
    result = model(torch.tensor([ids]), use_cache=False).logits[0]
    if len(ids) < 3 * RANDOM_SHAPE["window"] + 1:
        raise RuntimeError("the prompt is too short for the window")
    shown = {
        "no window": differs(model, ids, result, window=512), "window + 1": differs(model, ids, result, window=17),
        "no rope scaling": differs(model, ids, result, global_scaling=None),
    }  # fmt: skip
    report(f"prompt of {len(ids)} tokens; logits rms {result.pow(2).mean().sqrt():.2f}; they change by {shown}")
    if min(shown.values()) < 0.05:
        raise RuntimeError("a mistake in the window or the RoPE scaling would not show: choose another seed")
    greedy = gemma.greedy(model, ids, 64, set())
    margins = model(torch.tensor([ids + greedy]), use_cache=False).logits[0, len(ids) - 1 : -1].topk(2).values
    margin = float((margins[:, 0] - margins[:, 1]).min())
    report(f"greedy margin {margin:.3f}, {len(set(greedy))} different of 64 tokens")
    if margin < 0.01:
        raise RuntimeError("a greedy choice is too close: choose another seed")
    if min(greedy) <= vocabulary.END_OF_TURN:
        raise RuntimeError("the greedy text has a control token, at which an engine stops: choose another seed")
    (folder / "gemma_logits.f32").write_bytes(result.numpy().astype("<f4").tobytes())
    return {
        "model": "random-f32.gguf", "prompt": PROMPT, "tokens": ids, "logits": "gemma_logits.f32", "shape": list(result.shape),
        "greedy": {"tokens": greedy, "text": sp.decode(greedy), "least_margin": round(margin, 4)},
    }  # fmt: skip


def random_strings(seed: int, count: int = 160) -> list[str]:
    """Strings of what is hard, at random: runs, halves of spellings, scripts, marks that combine, and any character at all."""
    rng = random.Random(seed)
    parts = [s for s in STRINGS if 0 < len(s) < 24] + ["\n", " ", "  ", "\t", "▁", "\r\n"] * 8
    ranges = [(1, 0x7F), (0x80, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x900, 0xDFF), (0x2000, 0x27BF), (0x3040, 0x30FF)]
    ranges += [(0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFE00, 0xFFFF), (0x1F300, 0x1FAFF), (0x10000, 0x10FFFF)]

    def part() -> str:
        which = rng.randrange(6)
        if which == 0:
            return chr(rng.randint(*rng.choice(ranges)))
        if which == 1:
            return rng.choice(parts)[: rng.randint(1, 12)]
        if which == 2:
            return rng.choice(parts)[0] * rng.randint(1, 40)
        return rng.choice(parts)

    return ["".join(part() for _ in range(rng.randint(1, 10))) for _ in range(count)]


def tokenizer(sp: sentencepiece.SentencePieceProcessor) -> list[dict]:
    """The ids of each of STRINGS and of random ones, and what they decode to where that is another string."""
    out = []
    for s in STRINGS + random_strings(3):
        ids = sp.encode(s)
        record = {"text": s, "ids": ids}
        if sp.decode(ids) != s:
            record["decoded"] = sp.decode(ids)
        out.append(record)
    return out


def answer(
    model: Gemma3ForCausalLM, sp: sentencepiece.SentencePieceProcessor, memories: list[str], question: str, system=""
) -> dict:
    """The greedy answer to a question about memories."""
    ids = vocabulary.turn(sp, text.prompt(memories, question, system))
    out = gemma.greedy(model, ids, 64, {vocabulary.END_OF_TURN, vocabulary.EOS})
    return {
        "user": text.prompt(memories, question, system),
        "tokens": ids,
        "answer_tokens": out,
        "answer": sp.decode(out),
    }


def copy_score(model: Gemma3ForCausalLM, sp: sentencepiece.SentencePieceProcessor, report) -> tuple[int, int]:
    """How many held-out facts and how many altered ones the answers contain; the fact stands among its distractors."""
    right = altered = 0
    for i, f in enumerate(held_out.records()):
        others, at = f["distractors"], i % 5
        for key, expect in (("fact", "expect"), ("altered_fact", "altered_expect")):
            said = answer(model, sp, others[:at] + [f[key]] + others[at:], f["question"])["answer"]
            ok = f[expect] in said
            right, altered = right + (ok and key == "fact"), altered + (ok and key == "altered_fact")
            report(f"  {'ok ' if ok else 'NOT'} {f['question']} → {said!r}")
    return right, altered


def copy_answers(model: Gemma3ForCausalLM, sp: sentencepiece.SentencePieceProcessor) -> list[dict]:
    """The golden answers of the copy model to three prompts."""
    f = held_out.records()
    return [
        answer(model, sp, [f[0]["fact"]], f[0]["question"]),
        answer(model, sp, [f[1]["fact"], *f[1]["distractors"]], f[1]["question"], text.SYSTEMS[1]),
        answer(model, sp, [x["fact"] for x in f[2:9]], f[5]["question"]),
    ]


def write_json(path: Path, value) -> None:
    """Writes `value` with one line for each of its items."""
    if isinstance(value, list):
        lines = ",\n".join(json.dumps(v, ensure_ascii=True) for v in value)
        path.write_text(f"[\n{lines}\n]\n")
    else:
        lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=True)}" for k, v in value.items())
        path.write_text(f"{{\n{lines}\n}}\n")
