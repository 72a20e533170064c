"""Train the byte-level BPE tokenizer.

It uses Qwen2's pre-tokenizer pattern, which llama.cpp knows by name, so that every engine cuts text alike.
"""

import random
import re
from collections.abc import Iterator

from chat import (
    CHAT_TEMPLATE,
    CONTEXT_LENGTH,
    CONTROL_TOKENS,
    END_OF_TEXT,
    THINK_TOKENS,
    TURN_END,
    VOCABULARY_SIZE,
)  # fmt: skip
from data import make_example
from foreign import CHINESE_LINES, ENGLISH_LINES
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LONGEST_TOKEN = 9  # bytes; without a limit whole Chinese sentences become one token
SPECIAL = re.compile("|".join(map(re.escape, (*CONTROL_TOKENS, *THINK_TOKENS))))


def training_texts(seed: int, examples: int = 20_000) -> Iterator[str]:
    """The text of many examples without special tokens, and the foreign text."""
    rng = random.Random(seed)
    for _ in range(examples):
        example = make_example(rng)
        yield from SPECIAL.split(example.prompt + example.answer)
    yield from CHINESE_LINES * 20
    yield from ENGLISH_LINES


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer and add the chat template to it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(CONTROL_TOKENS) - len(THINK_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=LONGEST_TOKEN,
    )
    tokenizer.train_from_iterator(training_texts(seed), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINK_TOKENS])
    if tokenizer.get_vocab_size() != VOCABULARY_SIZE:
        raise ValueError(f"the vocabulary has {tokenizer.get_vocab_size()} tokens, not {VOCABULARY_SIZE}")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
