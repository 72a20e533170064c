"""What the queries of all nouns share: filters of a list, one row by id or name. Not for use outside `store/`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from mooring.core.pages import Query
from mooring.store.database import Transaction


async def fetch(tx: Transaction, statement: sa.Executable) -> Sequence[sa.Row[Any]]:
    """Return all rows."""
    return (await tx.execute(statement)).all()


async def find_row(tx: Transaction, table: sa.Table, ref: str, project: str | None, name: str = "name") -> Any:
    """Return the row whose id is `ref`, else the one of that name (in `project` if given), else None."""
    row = (await tx.execute(sa.select(table).where(table.c.id == ref))).one_or_none()
    if row is not None:
        return row
    statement = sa.select(table).where(table.c[name] == ref)
    if project is not None:
        statement = statement.where(table.c.project == project)
    return (await tx.execute(statement)).one_or_none()


def filtered(table: sa.Table, query: Query, name: str = "name") -> sa.Select[Any]:
    """Return the select of one page, ordered by (name, id). The state is the caller's business."""
    column = table.c[name]
    statement = sa.select(table).order_by(column, table.c.id).limit(query.limit)
    if query.project and "project" in table.c:
        statement = statement.where(table.c.project == query.project)
    if query.tag is not None and "tags" in table.c:
        statement = statement.where(table.c.tags[query.tag[0]].as_string() == query.tag[1])
    if query.text:
        statement = statement.where(column.icontains(query.text, autoescape=True))
    if query.owner and "owner" in table.c:
        statement = statement.where(table.c.owner == query.owner)
    if query.after is not None:
        statement = statement.where(sa.tuple_(column, table.c.id) > sa.tuple_(*map(sa.literal, query.after)))
    return statement


async def delete_row(tx: Transaction, table: sa.Table, object_id: str) -> bool:
    """Delete by id; return whether it existed."""
    return (await tx.execute(sa.delete(table).where(table.c.id == object_id))).rowcount > 0
