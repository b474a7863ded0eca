"""The SentencePiece vocabulary that all the small models share, laid out as Gemma's."""

import io
import random

import sentencepiece

from . import text

PIECES = 2048
PAD, EOS, BOS, UNK, START_OF_TURN, END_OF_TURN = range(6)
USER_DEFINED = (
    [chr(10) * n for n in range(1, 9)]
    + ["\t", "\t\t"]
    + ["▁" * n for n in range(2, 9)]
    + ["<table>", "</table>", "[multimodal]"]
)


def corpus(rng: random.Random) -> list[str]:
    """Lines of prompts, statements and noise for the vocabulary to be trained on."""
    lines = [
        w
        for group in (text.ATTRIBUTES, text.THINGS, text.FIRST_NAMES, text.FOODS, text.COLOURS, text.SYSTEMS)
        for w in group
    ] * 8
    for _ in range(6000):
        for fact in text.facts(rng, 3):
            lines += ["- " + fact.statement, rng.choice(fact.questions)]
        lines.append(text.noise(rng))
    lines += ["Memories:", "user", "model", "I do not know.", "I remember: The"] * 2000
    return lines


def train(seed: int = 1, pieces: int = PIECES, turns: tuple[str, str] = ("<start_of_turn>", "<end_of_turn>")) -> bytes:
    """Trains the vocabulary; the bytes of a SentencePiece model file. `turns` are the names of the pieces around a turn."""
    rng = random.Random(seed)
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus(rng)), model_writer=out, model_type="bpe", vocab_size=pieces, byte_fallback=True,
        add_dummy_prefix=False, remove_extra_whitespaces=False, normalization_rule_name="identity", split_digits=True,
        allow_whitespace_only_pieces=True, character_coverage=1.0, pad_id=PAD, eos_id=EOS, bos_id=BOS, unk_id=UNK,
        pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>", unk_surface=" \u2047 ",
        control_symbols=list(turns), user_defined_symbols=USER_DEFINED, num_threads=1,
        required_chars="".join(map(chr, range(33, 127))), minloglevel=2,
    )  # fmt: skip
    return out.getvalue()


def load(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """A processor for the bytes of a model file."""
    sp = sentencepiece.SentencePieceProcessor(model_proto=model)
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    if [sp.id_to_piece(i) for i in range(6)] != names or sp.vocab_size() != PIECES:
        raise RuntimeError("the trained vocabulary is not laid out as expected")
    return sp


def turn(sp: sentencepiece.SentencePieceProcessor, user: str, first: bool = True) -> list[int]:
    """The ids of a user turn and of the opening of the model's turn; text is never parsed for control tokens."""
    opening = [BOS, START_OF_TURN] if first else sp.encode("\n") + [START_OF_TURN]
    return (
        opening + sp.encode("user\n" + user) + [END_OF_TURN] + sp.encode("\n") + [START_OF_TURN] + sp.encode("model\n")
    )
