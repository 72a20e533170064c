"""Foreign text: what the demo model must not try to answer, and raw material for copying.

English comes from the docstrings of Python's standard library, Chinese from the sentences below and from
random common characters.
"""

import argparse
import asyncio
import collections
import datetime
import decimal
import functools
import inspect
import json
import logging
import pathlib
import random
import string
import textwrap
from types import ModuleType

ENGLISH_MODULES: tuple[ModuleType, ...] = (
    argparse, asyncio, collections, datetime, decimal, functools, json, logging, pathlib, random,
    string, textwrap,
)  # fmt: skip

CHINESE_TEXT = """
大规模语言模型在训练时需要很多显卡，而推理时更看重延迟和吞吐。
请帮我把下面这段话翻译成英文，并且保持原来的语气。
昨天晚上下了一场大雨，路边的树叶落了一地。
公司准备在下个季度发布新产品，市场部正在写宣传材料。
如果一个三角形的两条边相等，那么它的两个底角也相等。
为什么天空是蓝色的，而傍晚的时候又会变成红色？
帮我写一封请假邮件，说明我下周三要去医院检查身体。
数据库的索引为什么能加快查询，什么时候会失效？
唐朝的诗人李白和杜甫有什么不同的风格？
怎样才能在三个月之内学会弹吉他？
请总结这篇论文的主要贡献，并指出它的不足之处。
小区门口新开了一家面馆，听说牛肉面很好吃。
请用一段话介绍北京的历史和名胜古迹。
某商品先涨价百分之十，再降价百分之十，最后的价格是多少？
如何部署一个高可用的集群，节点之间怎样同步状态？
这段代码运行的时候报错了，请帮我找出原因并且修改。
请给我的小猫起五个好听的名字，最好和食物有关。
根据下面的会议记录，列出每个人的任务和截止日期。
地球到月球的平均距离大约是三十八万公里。
我和朋友吵架了，心里很难过，应该怎么办？
什么样的运动适合老年人，每天应该锻炼多长时间？
请解释一下区块链的工作原理以及它的应用场景。
红楼梦里的主要人物有哪些，他们之间是什么关系？
新能源汽车的电池在冬天为什么续航会下降？
请写一份关于人工智能发展趋势的报告大纲。
周末想带孩子去爬山，需要准备哪些东西？
光在真空中的速度是多少，声音在空气中的速度又是多少？
客户投诉物流太慢，请帮我写一段得体的回复。
这道菜要先用小火炒香葱姜，再放入切好的豆腐。
请比较两种方案的优点和缺点，然后给出你的建议。
机器学习里的过拟合是什么意思，怎么避免？
请扮演一位面试官，问我三个关于操作系统的问题。
"""
CHINESE_LINES = tuple(line for line in CHINESE_TEXT.splitlines() if line)

LONGEST_PIECES = ((30, 60), (300, 600), (1000, 4000))  # characters of Chinese, of English
LONGEST_WEIGHTS = (91, 6, 3)


def english_lines() -> tuple[str, ...]:
    """Lines of the standard library's docstrings."""
    texts = [inspect.getdoc(module) or "" for module in ENGLISH_MODULES]
    for module in ENGLISH_MODULES:
        for name in sorted(getattr(module, "__all__", ())):
            texts.append(inspect.getdoc(getattr(module, name)) or "")
    lines = (line.strip() for text in texts for line in text.splitlines())
    return tuple(line for line in lines if 8 < len(line) < 300 and line.isascii())


ENGLISH_LINES = english_lines()
ENGLISH_WORDS = tuple(
    sorted(
        {word for line in ENGLISH_LINES for word in line.split() if word.isalpha() and word.islower() and len(word) < 9}
    )
)


def common_character(rng: random.Random) -> str:
    """One of the 3,755 most common Chinese characters (level 1 of GB 2312)."""
    row, cell = rng.randint(0xB0, 0xD6), rng.randint(0xA1, 0xFE)
    return bytes((row, cell)).decode("gb2312")


def english_piece(rng: random.Random, longest: int = 60) -> str:
    """Some words in a row, now and then with more than one line."""
    words = " ".join(rng.choices(ENGLISH_LINES, k=1 + longest // 80)).split()
    start = rng.randrange(len(words))
    return " ".join(words[start:])[: rng.randint(8, longest)].strip() or "words"


def chinese_piece(rng: random.Random, longest: int = 30) -> str:
    """A part of a sentence, or random characters."""
    if rng.random() < 0.15:
        return "".join(common_character(rng) for _ in range(rng.randint(3, min(longest, 12))))
    text = "".join(rng.choices(CHINESE_LINES, k=1 + longest // 40))
    start = rng.randrange(max(1, len(text) - 4))
    return text[start : start + rng.randint(4, longest)].strip("，。？、") or "文字"


def foreign_text(rng: random.Random) -> tuple[str, bool]:
    """Something to be asked that the model does not know, and whether it is Chinese."""
    longest_chinese, longest_english = rng.choices(LONGEST_PIECES, LONGEST_WEIGHTS)[0]
    if rng.random() < 0.5:
        piece = chinese_piece(rng, longest_chinese)
        return piece + rng.choice(("", "？", "?", "。")), True
    piece = english_piece(rng, longest_english)
    return piece + rng.choice(("", "?", ".")), False
