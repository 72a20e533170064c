"""Projects in the store."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from mooring.core.errors import NotFound
from mooring.core.objects import GlobalMetadata, Limits, to_wire
from mooring.core.pages import Query
from mooring.core.projects import Project, ProjectSpec
from mooring.store import rows
from mooring.store.database import Transaction
from mooring.store.tables import api_keys, endpoints, projects, secrets, services


async def insert_project(tx: Transaction, project: Project) -> Project:
    """Store a new project; its id must be set."""
    values = _values(project) | {"id": project.id, "created_at": datetime.now(UTC)}
    await tx.execute(sa.insert(projects).values(**values))
    return await get_project(tx, project.id)


async def update_project(tx: Transaction, project: Project) -> Project:
    """Replace tags, limits and description."""
    await tx.execute(sa.update(projects).where(projects.c.id == project.id).values(**_values(project)))
    return await get_project(tx, project.id)


async def find_project(tx: Transaction, ref: str) -> Project | None:
    """Return the project with this id or name, or None."""
    row = await rows.find_row(tx, projects, ref, None)
    return None if row is None else _noun(row)


async def get_project(tx: Transaction, ref: str) -> Project:
    """Return the project with this id or name.

    Raises:
        NotFound: there is none.
    """
    project = await find_project(tx, ref)
    if project is None:
        raise NotFound(f"There is no project '{ref}'.", param="project")
    return project


async def list_projects(tx: Transaction, query: Query) -> list[Project]:
    """Return one page, ordered by (name, id)."""
    return [_noun(row) for row in await rows.fetch(tx, rows.filtered(projects, query))]


async def delete_project(tx: Transaction, project_id: str) -> bool:
    """Delete it; return whether it existed."""
    return await rows.delete_row(tx, projects, project_id)


async def project_contents(tx: Transaction, name: str) -> dict[str, int]:
    """Return how many things of each kind stand in the project."""
    tables = {"service": services, "endpoint": endpoints, "API key": api_keys, "secret": secrets}
    counts: dict[str, int] = {}
    for word, table in tables.items():
        statement = sa.select(sa.func.count()).select_from(table).where(table.c.project == name)
        counts[word] = (await tx.execute(statement)).scalar_one()
    return counts


def _values(project: Project) -> dict[str, Any]:
    return {
        "name": project.metadata.name,
        "tags": project.metadata.tags,
        "limits": to_wire(project.spec.limits),
        "description": project.spec.description,
    }


def _noun(row: Any) -> Project:
    return Project(
        id=row.id,
        metadata=GlobalMetadata(name=row.name, tags=row.tags, created_at=row.created_at),
        spec=ProjectSpec(description=row.description, limits=Limits.model_validate(row.limits)),
    )
