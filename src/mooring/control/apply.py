"""Apply: many documents in one transaction. All are judged before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from mooring.control.context import Actor
from mooring.control.orders import RULES, Action, Orders, name_of, project_of, told_deed
from mooring.core import objects
from mooring.core.errors import InvalidDocument, MooringError
from mooring.core.objects import AnyResource
from mooring.store.database import Transaction

MAX_DOCUMENTS = 1000
_NAMED = 5  # more places of faults than these are not named in the sentence; 'errors' has all of them
_RANK = {kind: rank for rank, kind in enumerate(RULES)}

Problem = dict[str, str | int]


@dataclass(frozen=True, slots=True)
class Applied:
    """`items` stand in the order of the documents."""

    items: list[dict[str, Any]]
    unacknowledged: tuple[str, ...] = ()


async def apply(orders: Orders, documents: list[object], *, actor: Actor, dry_run: bool = False) -> Applied:
    """Create or update everything, or nothing. With `dry_run`, do all of it and keep none.

    Raises:
        InvalidDocument: some documents are not valid or refused by a rule; all of those are listed with their index.
        MooringError: a rule refuses while writing; the message names the document.
    """
    nouns = await _judge(orders, documents, actor)
    async with orders.writing(dry_run=dry_run) as writing:
        done = await _write(orders, writing.tx, nouns, actor)
    return Applied([told_deed(noun, action, dry_run=dry_run) for noun, action in done], writing.unacknowledged)


async def _write(
    orders: Orders, tx: Transaction, nouns: list[AnyResource], actor: Actor
) -> list[tuple[AnyResource, Action]]:
    """Write what is referred to first; return the objects in the order of the documents."""
    written: dict[int, tuple[AnyResource, Action]] = {}
    for index in sorted(range(len(nouns)), key=lambda place: _RANK[nouns[place].kind]):
        try:
            written[index] = await orders.write(tx, nouns[index].kind, nouns[index], "apply", actor)
        except MooringError as error:
            if len(nouns) == 1:
                raise
            raise _located(error, index, nouns[index]) from error
    return [written[index] for index in range(len(nouns))]


async def _judge(orders: Orders, documents: list[object], actor: Actor) -> list[AnyResource]:
    if len(documents) > MAX_DOCUMENTS:
        raise InvalidDocument([], f"At most {MAX_DOCUMENTS} documents can be applied at once.")
    problems: list[Problem] = []
    refusals: list[MooringError] = []
    nouns: list[AnyResource] = []
    seen: dict[tuple[str, str, str], int] = {}
    for index, document in enumerate(documents):
        try:
            noun = _read(document)
            await RULES[noun.kind].prepare(noun, orders.context, actor)
        except InvalidDocument as error:
            problems += [{"index": index, **problem} for problem in error.problems]
            continue
        except MooringError as error:
            refusals.append(error)
            problems.append({"index": index, "field": error.param or "", "message": error.message})
            continue
        identity = noun.kind, project_of(noun), name_of(noun)
        if identity in seen:
            message = f"the {noun.kind} '{identity[2]}' is also document {seen[identity] + 1}"
            problems.append({"index": index, "field": "metadata.name", "message": message})
        seen.setdefault(identity, index)
        nouns.append(noun)
    if len(problems) == 1 and len(refusals) == 1:
        if len(documents) == 1:
            raise refusals[0]
        raise _located(refusals[0], int(problems[0]["index"]))  # keeps its own status and code
    if problems:
        raise InvalidDocument(problems, _told(problems, alone=len(documents) == 1))
    return nouns


def _read(document: object) -> AnyResource:
    if not isinstance(document, Mapping):
        raise InvalidDocument([{"field": "", "message": "a document must be an object with kind, metadata and spec"}])
    kind = cast("Mapping[str, object]", document).get("kind")
    rules = RULES.get(kind) if isinstance(kind, str) else None
    if rules is None:
        told = f"unknown kind '{kind}'" if kind is not None else "this field is required"
        raise InvalidDocument([{"field": "kind", "message": f"{told}; kinds are {', '.join(RULES)}"}])
    return objects.read(rules.model, cast("object", document))


def _told(problems: list[Problem], *, alone: bool) -> str:
    """Return one sentence on all problems; people count documents from 1, and don't count a single one."""
    if alone:
        return objects.told_problems(problems)
    first = problems[0]
    place = f"Document {int(first['index']) + 1}" + (f", {first['field']}" if first["field"] else "")
    others = {_place(problem) for problem in problems[1:]} - {_place(first)}
    more = f" Also wrong: {', '.join(sorted(others)[:_NAMED])}{' …' if len(others) > _NAMED else ''}." if others else ""
    return f"{place}: {str(first['message']).rstrip('.')}.{more} Nothing was applied."


def _place(problem: Problem) -> str:
    return f"document {int(problem['index']) + 1}" + (f" {problem['field']}" if problem["field"] else "")


def _located(error: MooringError, index: int, noun: AnyResource | None = None) -> MooringError:
    told = f" ({noun.kind} '{name_of(noun)}')" if noun is not None else ""
    located = type(error).__new__(type(error))
    MooringError.__init__(
        located,
        f"Document {index + 1}{told}: {error.message} Nothing was applied.",
        next_step=error.next_step,
        param=error.param,
        code=error.code,
        retry_after_s=error.retry_after_s,
    )
    if isinstance(located, InvalidDocument) and isinstance(error, InvalidDocument):
        located.problems = error.problems
    return located
