#!/usr/bin/env python3
"""Makes the small models and the golden files that the tests read.

    python3 -m venv venv && venv/bin/pip install -r scripts/requirements-golden.txt
    venv/bin/python scripts/make_models.py --out tests

writes into OUT/models
    copy.gguf                            trained to answer a question with the memory that it is about (F16)
    facts.gguf                           only with --only facts: trained to list the facts that turns state, as JSON (F16)
    random-{f32,f16,bf16,q8_0,q4_0}.gguf random weights, one model in every quantisation
    tokenizer.model                      the SentencePiece vocabulary of all of them
    gemma4-vocabulary.gguf               a vocabulary made as Gemma 4's
    FAMILY.gguf, FAMILY/                 random weights of the other families, each as GGUF and as it is published
and into OUT/golden
    tokenizer.json                       strings and SentencePiece's ids
    tokenizer_gemma4.json                strings and the ids of the `tokenizers` package in the Gemma 4 vocabulary
    gemma_logits.json, gemma_logits.f32  logits and greedy text of random-f32.gguf from transformers
    copy_facts.json                      ten facts that no training text holds
    copy_answers.json                    answers of copy.gguf from transformers
    facts_held_out.jsonl                 with facts.gguf: turns from another seed than the training's, with the facts that they state
    FAMILY.json, FAMILY.f32              logits and greedy text, or vectors, of the other families from transformers

It is run by hand when a model or a golden file is to change; the tests only read what it wrote. Everything is seeded: two
runs on one kind of processor give the same files, while another's rounding leads to another, equally good copy model.
Training takes half an hour on one free core for each trained model, the rest some minutes.
"""

import argparse
import json
import time
from pathlib import Path

from models_py import facts, families, gemma, gemma4, golden, held_out, train, vocabulary

START = time.monotonic()


def report(line: str) -> None:
    """Prints a line of progress with the time since the start."""
    print(f"{time.monotonic() - START:7.1f} s  {line}", flush=True)


def main() -> None:
    """Reads the command line and makes what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder that holds models/ and golden/")
    parser.add_argument(
        "--only",
        choices=("tokenizers", "random", "copy", "facts", "families"),
        help="make the tokenizers' files, those and the random models, the copy model, the facts model, or the other families' models",
    )
    arguments = parser.parse_args()
    models, goldens = arguments.out / "models", arguments.out / "golden"
    models.mkdir(parents=True, exist_ok=True)
    goldens.mkdir(parents=True, exist_ok=True)
    if arguments.only in (None, "families"):
        families.make(models, goldens, report)
    if arguments.only == "facts":
        make_facts(models, goldens)
    if arguments.only in ("facts", "families"):
        return
    model_file = vocabulary.train()
    sp = vocabulary.load(model_file)
    report(f"vocabulary of {sp.vocab_size()} pieces")
    if arguments.only != "copy":
        (models / "tokenizer.model").write_bytes(model_file)
        golden.write_json(goldens / "tokenizer.json", golden.tokenizer(sp))
        fourth = gemma4.train()
        gemma4.write(models / "gemma4-vocabulary.gguf", fourth)
        golden.write_json(goldens / "tokenizer_gemma4.json", gemma4.records(fourth))
    if arguments.only in ("random", None):
        make_random(models, goldens, sp)
    if arguments.only in ("copy", None):
        make_copy(models, goldens, sp)


def make_random(models: Path, goldens: Path, sp) -> None:
    """The random models and their logits."""
    model = golden.random_model()
    for kind in gemma.TYPES:
        path = models / f"random-{kind}.gguf"
        gemma.write(path, model, sp, kind, "Engram random")
        report(f"{path}: {path.stat().st_size:,} bytes")
    golden.write_json(goldens / "gemma_logits.json", golden.logits(model, sp, goldens, report))


def make_copy(models: Path, goldens: Path, sp) -> None:
    """The copy model, its facts and answers; refuses to write a model that has not learnt to copy."""

    def check(model) -> None:
        """Reports how far the model is."""
        report(
            "held-out facts right: {} of 10; altered: {} of 10".format(*golden.copy_score(model, sp, lambda _: None))
        )

    model = gemma.half(train.train(sp, report=report, check=check))
    right, altered = golden.copy_score(model, sp, report)
    report(f"held-out facts: {right} of 10; altered facts: {altered} of 10")
    if right < 8 or altered < 8:
        raise SystemExit("the model has not learnt to copy: nothing written")
    path = models / "copy.gguf"
    gemma.write(path, model, sp, "f16", "Engram copy")
    report(f"{path}: {path.stat().st_size:,} bytes")
    golden.write_json(goldens / "copy_facts.json", held_out.records())
    golden.write_json(goldens / "copy_answers.json", golden.copy_answers(model, sp))


def make_facts(models: Path, goldens: Path) -> None:
    """The model that writes facts, and turns to score it by: `score_extraction --model` says how good it is."""
    sp = facts.make_vocabulary()
    model = gemma.half(facts.learn(sp, report=report))
    path = models / "facts.gguf"
    gemma.write(path, model, sp, "f16", "Engram facts")
    report(f"{path}: {path.stat().st_size:,} bytes")
    lines = [json.dumps(turn, ensure_ascii=False) + "\n" for turn in facts.held_out()]
    (goldens / "facts_held_out.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    main()
