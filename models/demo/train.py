"""Train mooring-demo from nothing on a CPU.

    python train.py --out build --minutes 38

The learning rate falls to zero over the given minutes of wall-clock time.  A checkpoint is written every few
minutes; a run that was interrupted goes on from it.  `--finetune MINUTES` trains a finished model a bit more.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from chat import CONTEXT_LENGTH, END_OF_TEXT, TURN_END, VOCABULARY_SIZE
from data import make_example
from tokenizer import train_tokenizer
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SEED = 20261121
IGNORED = -100  # the label of a token without loss
ROWS_PER_STEP = 24
POOL = 2400  # examples made at once, then grouped by length
PEAK_LEARNING_RATE = 2e-3
WARM_UP_STEPS = 100
REPORT_STEPS = 100
CHECKPOINT_SECONDS = 240


@dataclass
class Progress:
    """How far a run has come; `seconds` counts training time only."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 of 3.5 million parameters with random weights."""
    end, padding = tokenizer.convert_tokens_to_ids([TURN_END, END_OF_TEXT])
    config = Qwen3Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT_LENGTH,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        eos_token_id=end,
        pad_token_id=padding,
        bos_token_id=None,
    )
    torch.manual_seed(SEED)
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = [end, padding]
    model.generation_config.pad_token_id = padding
    return model


Row = tuple[list[int], int]  # token ids, and how many of them are the prompt
Batch = tuple[torch.Tensor, torch.Tensor]


def make_rows(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> list[Row]:
    """A pool of examples as token ids, the shortest first."""
    rows = []
    for _ in range(POOL):
        example = make_example(rng)
        prompt = tokenizer.encode(example.prompt, add_special_tokens=False)
        answer = tokenizer.encode(example.answer, add_special_tokens=False)
        rows.append((prompt + answer, len(prompt)))
    rows.sort(key=lambda row: len(row[0]))
    return rows


def pad(rows: list[Row], padding: int) -> Batch:
    """Rows as one tensor of inputs and one of labels; only the answers have labels."""
    width = max(len(tokens) for tokens, _ in rows)
    inputs = torch.full((len(rows), width), padding)
    labels = torch.full((len(rows), width), IGNORED)
    for index, (tokens, prompt_length) in enumerate(rows):
        inputs[index, : len(tokens)] = torch.tensor(tokens)
        labels[index, prompt_length : len(tokens)] = torch.tensor(tokens[prompt_length:])
    return inputs, labels


def batches(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Iterator[Batch]:
    """Endless batches of fresh examples of about the same length."""
    padding = tokenizer.pad_token_id
    while True:
        rows = make_rows(tokenizer, rng)
        groups = [rows[start : start + ROWS_PER_STEP] for start in range(0, POOL, ROWS_PER_STEP)]
        rng.shuffle(groups)
        for group in groups:
            yield pad(group, padding)


def learning_rate(progress: Progress, minutes: float, peak: float) -> float:
    """A short warm-up, then half a cosine down to (almost) zero at the end of the time."""
    part = min(1.0, progress.seconds / (minutes * 60))
    warm_up = min(1.0, (progress.step + 1) / WARM_UP_STEPS)
    return peak * warm_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))


def train_step(model: Qwen3ForCausalLM, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """One step; the logits are computed only where there is a label."""
    inputs, labels = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(inputs, use_cache=False)[0][:, :-1]
        targets = labels[:, 1:]
        wanted = targets != IGNORED
        logits = model.lm_head(hidden[wanted])
    loss = torch.nn.functional.cross_entropy(logits.float(), targets[wanted])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


class Run:
    """One training run with its files under `out`."""

    def __init__(self, out: Path, minutes: float, finetune: bool, peak: float) -> None:
        self.directory = out / "hf"
        self.checkpoint = out / ("finetune.pt" if finetune else "checkpoint.pt")
        self.minutes = minutes
        self.peak = peak
        self.seed = SEED + finetune
        self.progress = Progress()
        if self.directory.exists():
            self.tokenizer = PreTrainedTokenizerFast.from_pretrained(self.directory)
            self.model = Qwen3ForCausalLM.from_pretrained(self.directory, dtype=torch.float32)
        else:
            self.tokenizer = train_tokenizer(SEED)
            self.model = new_model(self.tokenizer)
            self.save_model()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.peak, betas=(0.9, 0.98), weight_decay=0.05)
        if self.checkpoint.exists():
            self.resume()

    def resume(self) -> None:
        """Go on from the last checkpoint."""
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])

    def save_model(self) -> None:
        """Write the weights and the tokenizer in the Hugging Face layout."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(self.directory)
        self.tokenizer.save_pretrained(self.directory)

    def save(self) -> None:
        """Write the weights and a checkpoint to go on from."""
        self.save_model()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)

    def report(self, losses: list[float], rate: float) -> None:
        """Print one line of progress."""
        state = self.progress
        line = {
            "step": state.step,
            "tokens": state.tokens,
            "minutes": round(state.seconds / 60, 1),
            "loss": round(sum(losses) / len(losses), 4),
            "learning_rate": round(rate, 6),
            "tokens_per_second": round(state.tokens / state.seconds),
        }
        print(json.dumps(line), flush=True)

    def train(self) -> None:
        """Train until the time is up."""
        print(f"{sum(weights.numel() for weights in self.model.parameters())} parameters", flush=True)
        self.model.train()
        source = batches(self.tokenizer, random.Random(self.seed + self.progress.step))
        start = time.monotonic() - self.progress.seconds
        saved = self.progress.seconds
        losses: list[float] = []
        while self.progress.seconds < self.minutes * 60:
            rate = learning_rate(self.progress, self.minutes, self.peak)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            batch = next(source)
            losses.append(train_step(self.model, self.optimizer, batch))
            self.progress.step += 1
            self.progress.tokens += batch[0].numel()
            self.progress.seconds = time.monotonic() - start
            if self.progress.step % REPORT_STEPS == 0:
                self.report(losses, rate)
                losses = []
            if self.progress.seconds - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = self.progress.seconds
        self.save()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train mooring-demo.")
    parser.add_argument("--out", type=Path, default=Path("build"))
    parser.add_argument("--minutes", type=float, default=38.0)
    parser.add_argument("--finetune", action="store_true", help="train a finished model a bit more")
    parser.add_argument("--learning-rate", type=float, default=PEAK_LEARNING_RATE, help="at its peak")
    options = parser.parse_args()
    torch.set_num_threads(2)
    Run(options.out, options.minutes, options.finetune, options.learning_rate).train()


if __name__ == "__main__":
    main()
