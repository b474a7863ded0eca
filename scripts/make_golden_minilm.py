#!/usr/bin/env python3
"""Writes tests/golden/minilm.json: what all-MiniLM-L6-v2 gives for a set of texts, by PyTorch and transformers.

Run by hand, in an environment with scripts/requirements-golden.txt installed and the model fetched by
scripts/fetch-embedder:

    python3 scripts/make_golden_minilm.py --model models/all-MiniLM-L6-v2 --out tests/golden/minilm.json

For each text the file holds its token ids without the special ones, and one vector per window: the tokens cut into
windows of at most 254, before a piece that begins a word where there is one, [CLS] and [SEP] put around each, mean of the
last hidden states, norm 1. A text that fits into one window is also checked here against the plain way (text in, vector
out), so that the golden vectors are the reference's own and not an artefact of the cutting.
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertModel

WINDOW = 256

TEXTS = [
    "",
    " ",
    "\n\t \n",
    "a",
    ".",
    "?!…",
    "The cat sits on the mat.",
    "THE CAT SITS ON THE MAT.",
    "A feline is resting on a rug.",
    "Interest rates rose by half a point on Thursday, the third rise this year.",
    "What time does the last train to Edinburgh leave on Sundays?",
    "We agreed to ship the release on Friday if the tests stay green; Marta owns the changelog.",
    "naïve café, jalapeño, Ångström, Škoda, crème brûlée",
    "Der schnelle braune Fuchs springt über den faulen Hund, und die Straße ist naß.",
    "Le médecin m'a conseillé de dormir davantage et de boire moins de café.",
    "El niño leyó el cuento antes de acostarse; mañana habrá otro.",
    "Завтра утром мы едем в горы, если погода позволит.",
    "私は昨日図書館で新しい本を三冊借りました。",
    "今天下午三点在会议室讨论明年的预算。",
    "오늘 저녁에 친구들과 한강에서 자전거를 탈 거예요.",
    "اجتمع الفريق صباح اليوم لمناقشة الخطة الجديدة.",
    "अगले सप्ताह हम नया संस्करण जारी करेंगे।",
    "Το πλοίο φεύγει από το λιμάνι στις εφτά.",
    "הרכבת האחרונה יוצאת בחצות.",
    "🦜🌴 Parrots in the palms! 👩‍👩‍👧‍👦 family, 🇪🇺 flag, 👍🏽 thumb",
    "🙂",
    "def area(r: float) -> float:\n    return 3.14159 * r ** 2  # circle",
    '{"id": 17, "tags": ["red", "blue"], "ok": true, "ratio": -0.25e-3}',
    "https://example.org/path/to/page?query=value&other=1#part and someone@example.org",
    "3.14159265358979 1,234,567.89 2024-02-29T23:59:60Z +49 30 123456",
    "[CLS] [SEP] [MASK] [PAD] [UNK] are written in this text",
    "zero\u200bwidth soft\u00adhyphen no\u00a0break \ufeff mark e\u0301 combining",
    "\x00\x01 control \x7f characters \ufffd",
    "Pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism " + "x" * 120,
    # Exactly as long as the window, one token longer, and several windows.
    "river " * 254,
    "river " * 255,
    "".join(
        f"On day {day} the expedition noted wind from the {wind}, {degrees} degrees and a {sky} sky over camp {camp}. "
        for day, (wind, degrees, sky, camp) in enumerate(
            [(w, d, s, c) for c, w in enumerate(["north", "south-east", "west"]) for d in (-4, 11) for s in
             ("clear", "thunderous", "milky", "overcast")], 1)
    ),
    # A cut that falls into words of many pieces.
    "uncharacteristically electroencephalographic " * 40,
    # One word without an end of pieces: the cut has to fall inside. Words over 100 characters are [UNK] to this model.
    "ab" * 49 + " " + "qzx" * 33 + " " + "0123456789" * 10 + (" " + "jqxzv" * 20) * 6,
]


def windows(ids, continues):
    """Cuts token ids into windows of at most WINDOW - 2, before a piece that begins a word where there is one."""
    most = WINDOW - 2
    while len(ids) > most:
        cut = next((at for at in range(most, 0, -1) if not continues[ids[at]]), most)
        yield ids[:cut]
        ids = ids[cut:]
    yield ids


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("models/all-MiniLM-L6-v2"))
    parser.add_argument("--out", type=Path, default=Path("tests/golden/minilm.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    # A second one for whole texts: asking the first for truncation changes it for good.
    whole = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    whole.no_truncation()
    whole.no_padding()
    model = BertModel.from_pretrained(arguments.model, attn_implementation="eager", dtype=torch.float32).eval()
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    continues = [piece.startswith("##") for piece in pieces]

    def encode(ids):
        with torch.no_grad():
            hidden = model(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).last_hidden_state[0]
        return torch.nn.functional.normalize(hidden.mean(0), dim=0)

    entries = []
    for number, text in enumerate(TEXTS, 1):
        ids = whole.encode(text, add_special_tokens=False).ids
        cut = list(windows(ids, continues))
        vectors = [encode([tokenizer.cls_token_id, *part, tokenizer.sep_token_id]) for part in cut]
        if len(cut) == 1:
            plain = encode(tokenizer(text, truncation=True, max_length=WINDOW)["input_ids"])
            assert torch.equal(plain, vectors[0]), f"text {number}: the plain way differs"
        entries.append({
            "text": text,
            "tokens": ids,
            "lengths": [len(part) for part in cut],
            "vectors": [[round(float(x), 6) for x in vector] for vector in vectors],
        })
        print(f"{number}/{len(TEXTS)}: {len(ids)} tokens, {len(cut)} windows", flush=True)

    lines = ",\n".join(json.dumps(entry, ensure_ascii=True, separators=(",", ":")) for entry in entries)
    arguments.out.write_text(f'{{"model":"all-MiniLM-L6-v2","window":{WINDOW},"texts":[\n{lines}\n]}}\n')
    print(f"wrote {arguments.out}, {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
