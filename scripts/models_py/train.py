"""Trains the copy model: prompts of 1 to 8 memories and questions about them, answered with the memory asked for.

One conversation asks about several of its memories in turn: the memories are then read once for several answers, which is
most of a step's cost. The loss counts the answers fully and the questions, which repeat words of the memories, a little.
"""

import dataclasses
import random
import time

import sentencepiece
import torch
from transformers import Gemma3ForCausalLM

from . import gemma, text, vocabulary

SHAPE = {
    "vocabulary": vocabulary.PIECES, "width": 128, "feed_forward": 192, "layers": 6, "heads": 4, "kv_heads": 2, "head_dim": 32,
    "window": 512, "context": 2048,
}  # fmt: skip
TOKENS_PER_STEP = 3072
MATRIX_RATE = 0.03
OTHER_RATE = 4e-3
QUESTIONS = 6


class Muon(torch.optim.Optimizer):
    """Gradient descent with momentum whose step is made orthogonal, so that every direction of a matrix moves alike
    (Jordan and others, 2024): it learns from about half the tokens that AdamW needs here."""

    def __init__(self, parameters, lr: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        """One step; matrices of one shape go through the iteration together."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list] = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for shape, ps in shapes.items():
                moved = []
                for p in ps:
                    buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                    moved.append(p.grad.lerp(buffer, group["momentum"]))
                update = orthogonal(torch.stack(moved)) * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, u in zip(ps, update, strict=True):
                    p.mul_(1 - group["lr"] * 0.02).sub_(u, alpha=group["lr"])


def orthogonal(m: torch.Tensor) -> torch.Tensor:
    """The nearest matrices with singular values near 1, by five steps of a quintic Newton-Schulz iteration."""
    tall = m.shape[-2] > m.shape[-1]
    x = m.mT if tall else m
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


def conversation(
    rng: random.Random, sp: sentencepiece.SentencePieceProcessor, most: int, dense: bool = False
) -> tuple[list[int], list[float]]:
    """Ids and the weight of each as a target: up to `most` memories, with several questions in turn; fewer of them with
    words around them where they are `dense`."""
    memories = [
        dataclasses.replace(
            f, statement=f.statement if dense and rng.random() < 0.5 else text.lengthened(rng, f.statement)
        )
        for f in text.facts(rng, rng.randint(1, most), dense)
    ]
    system = rng.choice(text.SYSTEMS) if rng.random() < 0.25 else ""
    asked = rng.sample(memories, min(len(memories), QUESTIONS))
    if rng.random() < 0.02:
        head = system + "\n\n" if system else ""
        ids = vocabulary.turn(sp, head + rng.choice(asked[0].questions))
        answer = sp.encode(text.UNKNOWN) + [vocabulary.END_OF_TURN]
        return ids + answer, [0.0] * len(ids) + [1.0] * len(answer)
    lines = [m.statement for m in memories]
    if rng.random() < (0.05 if dense else 0.15) and len(lines) < most:
        lines.insert(rng.randint(0, len(lines)), text.noise(rng).strip())
    ids: list[int] = []
    weights: list[float] = []
    for n, fact in enumerate(asked):
        question = rng.choice(fact.questions)
        if rng.random() < 0.1:
            question = (
                question.rstrip("?.") if rng.random() < 0.5 else rng.choice(("Hi! ", "Hello. ", "Tell me: ")) + question
            )
        user = text.prompt(lines, question, system) if n == 0 else question
        turn = vocabulary.turn(sp, user, first=n == 0)
        tail = len(sp.encode(question)) + 4
        answer = sp.encode(text.answer(fact.statement)) + [vocabulary.END_OF_TURN]
        ids += turn + answer
        weights += [0.0] * (len(turn) - tail) + [0.1] * (tail - 4) + [0.0] * 4 + [1.0] * len(answer)
    return ids, weights


def batches(rng: random.Random, sp: sentencepiece.SentencePieceProcessor, most: int, dense: bool):
    """Batches of conversations of like length, from a pool: ids, weights."""
    return in_batches(rng, [conversation(rng, sp, most, dense) for _ in range(512)], TOKENS_PER_STEP)


def in_batches(rng: random.Random, pool: list[tuple[list[int], list[float]]], tokens: int):
    """A pool of ids with weights as batches of like length, of so many tokens, in any order: ids, weights."""
    groups: list[list] = [[]]
    for c in sorted(pool, key=lambda c: len(c[0])):
        if (len(groups[-1]) + 1) * len(c[0]) > tokens:
            groups.append([])
        groups[-1].append(c)
    rng.shuffle(groups)
    for group in groups:
        longest = max(len(ids) for ids, _ in group)
        yield (
            torch.tensor([ids + [vocabulary.PAD] * (longest - len(ids)) for ids, _ in group]),
            torch.tensor([w + [0.0] * (longest - len(w)) for _, w in group]),
        )


def initialise(model: Gemma3ForCausalLM, seed: int) -> None:
    """Embeddings of RMS 1 after Gemma's scaling by sqrt(width), and small post-norms, so that the residual stream starts as
    the embedding and not as the noise of the branches; q and k are scaled up for sharper attention."""
    torch.manual_seed(seed)
    c = model.config
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.dim() == 1:
                p.fill_(-0.8 if "post_" in key else 0.5 if "q_norm" in key or "k_norm" in key else 0.0)
            else:
                p.normal_(0, c.hidden_size**-0.5 if "embed" in key else p.shape[1] ** -0.5)


def loss_of(model: Gemma3ForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The weighted cross-entropy and the share of the answers' tokens that are right."""
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    targets, weights = ids[:, 1:], weights[:, 1:]
    used = weights > 0
    logits = model.lm_head(hidden[used])
    targets, weights = targets[used], weights[used]
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    full = weights == 1
    right = (logits.argmax(-1) == targets)[full].float().mean().item()
    return (losses * weights).sum() / weights.sum(), right


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training. Its progress starts at `first` and grows by 1 in `horizon` tokens: the number of memories grows
    up to 20 % of progress, and the rates fall to zero between 40 % and 100 %."""

    tokens: int
    first: float
    horizon: int
    dense: bool
    seed: int

    def rate(self, seen: int) -> float:
        """The share of the full rates."""
        return min(1, (1 - self.first - seen / self.horizon) / 0.6)

    def memories(self, seen: int) -> int:
        """The most memories in one prompt."""
        done = self.first + seen / self.horizon
        return 2 if done < 0.06 else 4 if done < 0.2 else 8


# The skill is learnt from varied prompts; the memories that differ in one word come once it is there.
PHASES = (
    Phase(tokens=4_514_475, first=0.0, horizon=7_000_000, dense=False, seed=1),
    Phase(tokens=3_600_000, first=0.64, horizon=10_000_000, dense=True, seed=2),
)


def train(sp: sentencepiece.SentencePieceProcessor, report=print, check=lambda _: None) -> Gemma3ForCausalLM:
    """A model trained through PHASES. `check` gets it after every half a million tokens."""
    torch.set_num_threads(1)
    text.STEMS = [p for p in map(sp.id_to_piece, range(sp.vocab_size())) if p.isascii() and p.isalpha()]
    model = gemma.build(**SHAPE, attention="sdpa")
    initialise(model, PHASES[0].seed)
    for phase in PHASES:
        run(model, sp, phase, report, check)
    return model.eval()


def run(model: Gemma3ForCausalLM, sp: sentencepiece.SentencePieceProcessor, phase: Phase, report, check) -> None:
    """Trains the model through one phase, with fresh optimisers and a short warm-up."""
    rng = random.Random(phase.seed)
    model.train()
    matrices = [p for key, p in model.named_parameters() if p.dim() == 2 and "embed" not in key]
    others = [p for key, p in model.named_parameters() if p.dim() != 2 or "embed" in key]
    optimisers = [
        (Muon(matrices, lr=MATRIX_RATE), MATRIX_RATE),
        (torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0), OTHER_RATE),
    ]
    step, seen, checked, shown, mean, correct = 0, 0, 0, 0.0, 0.0, 0.0
    while seen < phase.tokens:
        for ids, weights in batches(rng, sp, phase.memories(seen), phase.dense):
            if seen >= phase.tokens:
                break
            scale = min(1, (step + 1) / 50) * phase.rate(seen)
            loss, right = loss_of(model, ids, weights)
            model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(others, 1.0)
            for optimiser, rate in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = rate * scale
                optimiser.step()
            step += 1
            seen += ids.numel()
            mean = loss.item() if step == 1 else 0.97 * mean + 0.03 * loss.item()
            correct = right if step == 1 else 0.97 * correct + 0.03 * right
            if time.process_time() - shown > 15:
                shown = time.process_time()
                done = f"{seen / 1e6:.2f} of {phase.tokens / 1e6:.2f} M tokens"
                report(f"{done}  step {step}  loss {mean:.4f}  answer tokens right {correct:.2%}")
            if seen - checked > 500_000:
                checked = seen
                check(model.eval())
                model.train()
