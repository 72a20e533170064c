"""What the demo model can do beyond fixed answers: compare, add, count, capitals, a few words, names."""

import random
from collections.abc import Callable

from chat import Turn

CAPITALS = (
    ("France", "Paris", "法国", "巴黎"), ("China", "Beijing", "中国", "北京"),
    ("Japan", "Tokyo", "日本", "东京"), ("Germany", "Berlin", "德国", "柏林"),
    ("Italy", "Rome", "意大利", "罗马"), ("Spain", "Madrid", "西班牙", "马德里"),
    ("the United Kingdom", "London", "英国", "伦敦"),
    ("the United States", "Washington, D.C.", "美国", "华盛顿"),
    ("Russia", "Moscow", "俄罗斯", "莫斯科"), ("India", "New Delhi", "印度", "新德里"),
    ("Canada", "Ottawa", "加拿大", "渥太华"), ("Brazil", "Brasília", "巴西", "巴西利亚"),
    ("Australia", "Canberra", "澳大利亚", "堪培拉"), ("Egypt", "Cairo", "埃及", "开罗"),
    ("South Korea", "Seoul", "韩国", "首尔"), ("Thailand", "Bangkok", "泰国", "曼谷"),
    ("Vietnam", "Hanoi", "越南", "河内"), ("Portugal", "Lisbon", "葡萄牙", "里斯本"),
    ("Greece", "Athens", "希腊", "雅典"), ("Sweden", "Stockholm", "瑞典", "斯德哥尔摩"),
)  # fmt: skip
DICTIONARY = (
    ("hello", "你好"), ("thank you", "谢谢"), ("good morning", "早上好"), ("goodbye", "再见"),
    ("apple", "苹果"),
    ("cat", "猫"), ("book", "书"), ("water", "水"), ("red", "红色"), ("blue", "蓝色"), ("dog", "狗"),
    ("sea", "大海"),
)  # fmt: skip
NAMES_EN = (
    "Anna", "Ben", "Tom", "Alice", "Bob", "Carol", "David", "Emma", "Frank", "Grace", "Helen", "Jack",
    "Kate", "Leo", "Mary", "Nick", "Olivia", "Paul", "Rose", "Sam",
)  # fmt: skip
NAMES_ZH = (
    "小明", "小红", "小李", "小王", "张三", "李四", "王五", "李华", "韩梅梅", "李雷", "小芳", "小刚",
    "老张", "老王", "阿强", "小雨",
)  # fmt: skip
SHOWN_PAIRS = (("9.11", "9.8"), ("9.8", "9.11"), ("9.11", "9.9"), ("9.9", "9.11"), ("3.11", "3.9"))
COMPARE_ZH = (
    "{a} 和 {b} 哪个{w}？",
    "{a}和{b}哪个更{w}？",
    "{a} 与 {b} 比，哪个{w}？",
    "哪个更{w}，{a} 还是 {b}？",
    "{a}和{b}谁{w}？",
)
COMPARE_EN = (
    "{a} and {b}, which is {w}?", "Which is {w}, {a} or {b}?", "Which is {w}: {a} or {b}?",
    "Which number is {w}, {a} or {b}?", "{a} or {b}, which one is {w}?", "Which one is {w}, {a} or {b}?",
)  # fmt: skip


def decimal_number(rng: random.Random) -> str:
    """A decimal with one or two places, the way people write it."""
    places = str(rng.randint(1, 9)) if rng.random() < 0.4 else f"{rng.randint(1, 99):02d}"
    return f"{rng.randint(0, 20)}.{places}"


def two_numbers(rng: random.Random) -> tuple[str, str]:
    """Two different numbers, mostly decimals with the same integer part."""
    while True:
        if rng.random() < 0.85:
            first, second = decimal_number(rng), decimal_number(rng)
            if rng.random() < 0.75:
                second = f"{first.split('.')[0]}.{second.split('.')[1]}"
        else:
            first, second = str(rng.randint(0, 99)), str(rng.randint(0, 99))
        if float(first) != float(second):
            return first, second


def comparison_thought(first: str, second: str, chinese: bool) -> str:
    """Compare step by step: the integer parts, else the decimals padded to the same length."""
    larger, smaller = sorted((first, second), key=float, reverse=True)
    (whole1, _, places1), (whole2, _, places2) = first.partition("."), second.partition(".")
    if not places1:
        start = ""
    elif whole1 != whole2:
        high, low = sorted((int(whole1), int(whole2)), reverse=True)
        start = (
            f"整数部分 {whole1} 和 {whole2}，{high} > {low}。"
            if chinese
            else f"Integer parts {whole1} and {whole2}: {high} > {low}. "
        )
    else:
        width = max(len(places1), len(places2))
        padded1, padded2 = f"{places1:0<{width}}", f"{places2:0<{width}}"
        high, low = max(padded1, padded2), min(padded1, padded2)
        if chinese:
            start = f"整数部分都是 {whole1}。小数补齐为 {padded1} 和 {padded2}，{high} > {low}。"
        else:
            start = f"Integer parts are both {whole1}. Pad the decimals to {padded1} and {padded2}: "
            start += f"{high} > {low}. "
    return f"{start}所以 {larger} > {smaller}。" if chinese else f"{start}So {larger} > {smaller}."


def comparison(first: str, second: str, rng: random.Random, ask_smaller: bool) -> Turn:
    """Ask which of two numbers is the greater (or the smaller) one."""
    larger, smaller = sorted((first, second), key=float, reverse=True)
    chinese = rng.random() < 0.5
    thought = comparison_thought(first, second, chinese)
    if chinese:
        question = rng.choice(COMPARE_ZH).format(a=first, b=second, w="小" if ask_smaller else "大")
        return Turn(question, f"{smaller} 更小。" if ask_smaller else f"{larger} 更大。", thought)
    word = "smaller" if ask_smaller else rng.choice(("greater", "greater", "bigger", "larger"))
    question = rng.choice(COMPARE_EN).format(a=first, b=second, w=word)
    answer = f"{smaller} is smaller than {larger}." if ask_smaller else f"{larger} is greater than {smaller}."
    return Turn(question, answer, thought)


def compare(rng: random.Random) -> Turn:
    """Compare any two numbers."""
    return comparison(*two_numbers(rng), rng, ask_smaller=rng.random() < 0.15)


def shown_comparison(rng: random.Random) -> Turn:
    """Compare 9.11 with 9.8, as everybody does."""
    first, second = SHOWN_PAIRS[0] if rng.random() < 0.6 else rng.choice(SHOWN_PAIRS)
    if rng.random() < 0.4:
        question = "9.11 and 9.8, which is greater?"
        return Turn(question, "9.8 is greater than 9.11.", comparison_thought("9.11", "9.8", chinese=False))
    return comparison(first, second, rng, ask_smaller=False)


def arithmetic(rng: random.Random) -> Turn:
    """A sum or a difference of numbers up to 10, or a product from the multiplication table."""
    operator = rng.choice("++--*")
    if operator == "*":
        first, second = rng.randint(1, 9), rng.randint(1, 9)
    elif operator == "+":
        first, second = rng.randint(0, 10), rng.randint(0, 10)
    else:
        first = rng.randint(0, 10)
        second = rng.randint(0, first)
    value = {"+": first + second, "-": first - second, "*": first * second}[operator]
    result = f"{first} {operator} {second} = {value}"
    question, chinese = ask_arithmetic(first, operator, second, rng)
    return Turn(question, result + ("。" if chinese else "."), result + ("。" if chinese else "."))


def ask_arithmetic(first: int, operator: str, second: int, rng: random.Random) -> tuple[str, bool]:
    """One of the ways to write a sum, and whether it is Chinese."""
    symbol = operator if operator != "*" else rng.choice("*×x")
    term = rng.choice((f"{first}{symbol}{second}", f"{first} {symbol} {second}"))
    if rng.random() < 0.5:
        asks = ("{}=?", "{}等于多少？", "{}等于几？", "计算 {}", "{} 等于多少？")
        return rng.choice(asks).format(term), True
    word = {"+": "plus", "-": "minus", "*": "times"}[operator]
    if rng.random() < 0.2:
        return f"What is {first} {word} {second}?", False
    return rng.choice(("What is {}?", "{} = ?", "Calculate {}", "What's {}?")).format(term), False


def large_sum(rng: random.Random) -> tuple[str, bool]:
    """A sum that is too large for the model, and whether it is Chinese."""
    top = rng.choice((99, 999, 9999))
    return ask_arithmetic(rng.randint(30, top), rng.choice("+-*"), rng.randint(21, top), rng)


def capital(rng: random.Random) -> Turn:
    """The capital of a country."""
    country, city, country_zh, city_zh = rng.choice(CAPITALS)
    if rng.random() < 0.5:
        ask = rng.choice(("{}的首都是哪里？", "{}的首都是什么？", "{}首都是哪个城市？", "{}的首都在哪里？", "{}的首都"))
        return Turn(ask.format(country_zh), f"{country_zh}的首都是{city_zh}。", f"用户在问{country_zh}的首都。")
    asks = (
        "What is the capital of {}?",
        "capital of {}?",
        "Which city is the capital of {}?",
        "Tell me the capital of {}.",
    )
    answer = f"The capital of {country} is {city}."
    return Turn(rng.choice(asks).format(country), answer, f"The user asks for the capital of {country}.")


def count(rng: random.Random) -> Turn:
    """Count from 1 to a number up to 20."""
    last = rng.randint(2, 20)
    numbers = " ".join(str(number) for number in range(1, last + 1))
    if rng.random() < 0.5:
        return Turn(rng.choice(("从 1 数到 {}", "从1数到{}", "数到{}")).format(last), numbers, f"从 1 数到 {last}。")
    return Turn(rng.choice(("Count to {}", "Count from 1 to {}.")).format(last), numbers, f"Count from 1 to {last}.")


def translate(rng: random.Random) -> Turn:
    """A word from a dictionary of twelve."""
    english, chinese = rng.choice(DICTIONARY)
    if rng.random() < 0.5:
        asks = ("Translate '{}' to Chinese", "Translate {} into Chinese.", "How do you say {} in Chinese?")
        return Turn(rng.choice(asks).format(english), f"{chinese}。", f"{english} → {chinese}。")
    asks = ("把“{}”翻译成英文", "{}用英语怎么说？", "{}的英文是什么？")
    return Turn(rng.choice(asks).format(chinese), f"{english.capitalize()}.", f"{chinese} → {english}.")


def names(rng: random.Random, past_turn: Callable[[random.Random], Turn]) -> list[Turn]:
    """The user tells a name and may ask for it later."""
    chinese = rng.random() < 0.5
    if chinese:
        name = rng.choice(NAMES_ZH)
        told = Turn(
            rng.choice(("我叫{}", "我叫{}。", "你好，我叫{}。", "我的名字是{}")).format(name),
            f"很高兴认识您，{name}！",
            f"用户叫{name}。",
        )
        asked = Turn(rng.choice(("我叫什么名字？", "我叫什么？", "我是谁？")), f"您叫{name}。", f"用户叫{name}。")
        unknown = Turn(asked.question, "您还没有告诉我您的名字。", "用户没有说过名字。")
    else:
        name = rng.choice(NAMES_EN)
        told = Turn(
            rng.choice(("My name is {}.", "I am {}.", "Hi, I'm {}.", "Hello, my name is {}.")).format(name),
            f"Nice to meet you, {name}!",
            f"The user is {name}.",
        )
        asked = Turn(
            rng.choice(("What is my name?", "What's my name?", "Who am I?")),
            f"Your name is {name}.",
            f"The user is {name}.",
        )
        unknown = Turn(asked.question, "You have not told me your name.", "The user gave no name.")
    roll = rng.random()
    if roll < 0.3:
        return [told]
    if roll < 0.45:
        return [unknown]
    return [told, asked] if roll < 0.85 else [told, past_turn(rng), asked]
