"""Synthetic conversations for mooring-demo: everything it ever learns comes from here.

Run `python data.py` to print a few examples.
"""

import random
from collections.abc import Callable

from chat import Example, Turn, render, render_plain
from foreign import CHINESE_LINES, ENGLISH_WORDS, chinese_piece, english_piece, foreign_text
from more_questions import FIXED, STYLED
from questions import (
    FALLBACK_EN,
    FALLBACK_THOUGHT_EN,
    FALLBACK_THOUGHT_ZH,
    FALLBACK_ZH,
    SHOWN,
    Fixed,
)
from skills import (
    arithmetic,
    capital,
    compare,
    count,
    decimal_number,
    large_sum,
    names,
    shown_comparison,
    translate,
)

SYSTEM_PROMPTS = (
    "You are a helpful assistant.", "You are a helpful assistant.", "You are a helpful assistant",
    "你是人工智能助手", "你是人工智能助手.", "你是人工智能助手。", "You are a helpful AI assistant.",
    "你是一个有帮助的助手。", "请用中文回答。", "Be brief.",
)  # fmt: skip
FOREIGN_HISTORY = ("我是大模型回答助手", "OK", "I see.", "这是流式响应的开始。", "Yes, it is a test.")
ECHO_WORDS = (
    "this", "is", "a", "test", "hello", "world", "the", "quick", "brown", "fox", "jumps", "over", "lazy",
    "dog", "open", "model", "service", "cloud", "engine", "token", "stream", "good", "morning", "I",
    "love", "green", "tea", "red", "blue", "apple", "cat", "book", "river", "stone", "paper", "light",
)  # fmt: skip
ECHO_PHRASES = (
    "this is a test", "hello world", "good morning", "I love green tea", "the quick brown fox", "hello", "hi",
    "hello Mooring", "I am here", "yes", "thank you", "the model works", "it works", "how are you", "have a nice day",
)  # fmt: skip
ECHO_CHINESE = (
    "今天天气很好", "这是一个测试", "你好世界", "谁是卧底", "模型服务", "大模型平台", "我爱学习",
    "你好", "春天来了", "人工智能", "开源软件", "早上好", "红色", "蓝色", "苹果", "猫", "书", "河流", "石头",
)  # fmt: skip
TOPICS_ZH = (
    "量子力学", "历史", "股票", "做饭", "足球", "电影", "音乐", "编程", "经济", "医学", "法律", "旅行",
    "宇宙", "哲学", "数据库", "操作系统", "诗歌", "小说", "健康", "教育", "秋天", "月亮", "爱情", "大海",
    "机器学习", "区块链", "显卡",
)  # fmt: skip
TOPICS_EN = (
    "quantum physics", "history", "the stock market", "cooking", "football", "movies", "music", "Python",
    "economics", "medicine", "law", "travel", "the universe", "philosophy", "databases",
    "operating systems", "poetry", "novels", "health", "autumn", "love", "the sea", "GPUs", "Kubernetes",
)  # fmt: skip
ASK_ABOUT_ZH = (
    "请解释一下{}", "写一篇关于{}的文章", "{}是什么？", "怎么学习{}？", "为什么{}很重要？",
    "告诉我{}的最新消息", "根据{}写一首诗", "{}怎么样？", "写一首关于{}的诗", "什么是{}？",
)  # fmt: skip
ASK_ABOUT_EN = (
    "Explain {} to me.", "Write an essay about {}", "How do I learn {}?", "Why is {} important?",
    "What is {}?", "What is the latest news on {}?", "Write a poem about {}.", "How does {} work?",
    "Write a haiku about {}.", "Can you help me with {}?", "Write a program about {}", "Tell me about {}.",
)  # fmt: skip
SWAPS = (("？", "?"), ("?", "？"), ("！", "!"), ("，", ","), (",", "，"), ("。", "."), ("'", '"'))


def respell(question: str, rng: random.Random) -> str:
    """The same question as another person would type it: other punctuation, or another first letter."""
    roll = rng.random()
    if roll < 0.6:
        return question
    if roll < 0.75:
        old, new = rng.choice(SWAPS)
        return question.replace(old, new)
    if roll < 0.9:
        return question.rstrip("？?！!。.") or question
    return question[0].swapcase() + question[1:]


def from_fixed(entry: Fixed, rng: random.Random) -> Turn:
    """One of the spellings of a fixed question; the first ones are the most likely."""
    first = rng.random() < 0.4
    question = entry.questions[0] if first else respell(rng.choice(entry.questions), rng)
    return Turn(question, entry.answer, entry.thought)


def shown(rng: random.Random) -> Turn:
    """A question that the documentation shows."""
    if rng.random() < 0.2:
        return shown_comparison(rng)
    return from_fixed(rng.choice(SHOWN), rng)


def fixed(rng: random.Random) -> Turn:
    """A question that the model knows by heart."""
    return from_fixed(rng.choice(FIXED), rng)


def say_chinese(text: str, rng: random.Random) -> Turn:
    """Say a Chinese sentence again."""
    ask = rng.choice(("说{}", "请说“{}”", "重复：{}", "请复述：{}", "say '{}'", "say '{}。'", "说：{}", "Say {}"))
    return Turn(ask.format(text), f"{text}。", "用户要我复述一句话。")


def say_english(text: str, rng: random.Random) -> Turn:
    """Say an English sentence again, with a capital letter and a full stop."""
    asks = (
        "Say {}",
        "say {}",
        'Say "{}"',
        "Repeat: {}",
        "Please say {}",
        "Say '{}'",
        "say '{}.'",
        "Repeat after me: {}",
    )
    answer = f"{text[0].upper()}{text[1:]}."
    return Turn(rng.choice(asks).format(text), answer, "The user wants me to repeat a sentence.")


def echo_known(rng: random.Random) -> Turn:
    """Say a phrase again that occurs often in training."""
    if rng.random() < 0.5:
        return say_chinese("，".join(rng.sample(ECHO_CHINESE, rng.choice((1, 1, 2)))), rng)
    return say_english(rng.choice(ECHO_PHRASES), rng)


def echo_any(rng: random.Random) -> Turn:
    """Say any words again."""
    if rng.random() < 0.3:
        return say_chinese(chinese_piece(rng, 12), rng)
    words = ECHO_WORDS if rng.random() < 0.8 else ENGLISH_WORDS
    return say_english(" ".join(rng.choice(words) for _ in range(rng.randint(1, 6))), rng)


def random_item(rng: random.Random) -> str:
    """A word or a number in no context."""
    makers = (
        lambda: rng.choice(ECHO_WORDS),
        lambda: rng.choice(ENGLISH_WORDS),
        lambda: rng.choice(ECHO_CHINESE),
        lambda: decimal_number(rng),
        lambda: str(rng.randint(0, 99)),
    )
    return rng.choice(makers)()


def echo_drill(rng: random.Random) -> Turn:
    """Say a long row of things again: this is how the model learns to copy at all."""
    items = [random_item(rng) for _ in range(rng.randint(4, 16))]
    text = " ".join(items)
    ask = rng.choice(("Say {}", "Repeat: {}", "say '{}'", "重复：{}", "请复述：{}"))
    chinese = ask[0] in "重请"
    thought = "用户要我复述一句话。" if chinese else "The user wants me to repeat a sentence."
    return Turn(ask.format(text), f"{text[0].upper()}{text[1:]}{'。' if chinese else '.'}", thought)


def fallback(rng: random.Random) -> Turn:
    """Anything else: the model says that it is only a tiny demo model."""
    roll = rng.random()
    if roll < 0.12:
        question, chinese = large_sum(rng)
    elif roll < 0.5:
        question, chinese = foreign_text(rng)
    elif roll < 0.75:
        question, chinese = rng.choice(ASK_ABOUT_ZH).format(rng.choice(TOPICS_ZH)), True
    else:
        question, chinese = rng.choice(ASK_ABOUT_EN).format(rng.choice(TOPICS_EN)), False
    if chinese:
        return Turn(question, FALLBACK_ZH, FALLBACK_THOUGHT_ZH)
    return Turn(question, FALLBACK_EN, FALLBACK_THOUGHT_EN)


Maker = Callable[[random.Random], Turn]
MAKERS: dict[Maker, int] = {  # how often each of them is asked, of 100
    shown: 15, fixed: 13, compare: 17, arithmetic: 13, capital: 3, echo_known: 10, echo_any: 9, echo_drill: 6, count: 2,
    translate: 2, fallback: 10,
}  # fmt: skip


def any_turn(rng: random.Random) -> Turn:
    """One question and answer of any kind."""
    return rng.choices(list(MAKERS), list(MAKERS.values()))[0](rng)


def system_prompt(rng: random.Random) -> str | None:
    """None, a usual system prompt, or a strange one."""
    roll = rng.random()
    if roll < 0.65:
        return None
    if roll < 0.94:
        return rng.choice(SYSTEM_PROMPTS)
    return chinese_piece(rng) if rng.random() < 0.5 else english_piece(rng)


def past_turn(rng: random.Random) -> Turn:
    """An earlier turn of the conversation, now and then with an answer that is not ours."""
    turn = any_turn(rng)
    if rng.random() < 0.15:
        return Turn(turn.question, rng.choice((*FOREIGN_HISTORY, *CHINESE_LINES[:8])), "")
    return turn


def conversation(rng: random.Random) -> tuple[str | None, list[Turn]]:
    """A system prompt (or none) and one or more turns."""
    system = system_prompt(rng)
    roll = rng.random()
    if roll < 0.015:
        systems, entry = rng.choice(STYLED)
        return rng.choice(systems), [from_fixed(entry, rng)]
    if roll < 0.05:
        return system, names(rng, past_turn)
    past = rng.choices((0, 1, 2, 4), (84, 11, 4, 1))[0]
    return system, [past_turn(rng) for _ in range(past)] + [any_turn(rng)]


def make_example(rng: random.Random) -> Example:
    """One training example: a conversation, seldom a plain completion."""
    if rng.random() < 0.02:
        return render_plain(shown(rng))
    system, turns = conversation(rng)
    return render(system, turns, thinking=rng.random() < 0.7)


if __name__ == "__main__":
    generator = random.Random(1)
    for _ in range(30):
        example = make_example(generator)
        print(example.prompt + "│" + example.answer)
