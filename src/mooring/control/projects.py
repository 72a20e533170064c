"""Rules of projects."""

from __future__ import annotations

from mooring.control.context import Actor, Context, require_administrator
from mooring.core.errors import Conflict
from mooring.core.ids import new_id
from mooring.core.objects import DEFAULT_PROJECT
from mooring.core.pages import Query
from mooring.core.projects import Project
from mooring.store import changes
from mooring.store import projects as store
from mooring.store.database import Transaction


async def prepare(project: Project, context: Context, actor: Actor) -> None:
    """Judge what needs no database."""
    require_administrator(actor, "create or change projects")


async def find(tx: Transaction, ref: str, project: str, actor: Actor) -> Project | None:
    """Return the project with this id or name, or None."""
    return await store.find_project(tx, ref)


async def listing(tx: Transaction, query: Query, actor: Actor) -> list[Project]:
    """Return one page of projects; `query.project` picks the one of that name."""
    if not query.project:
        return await store.list_projects(tx, query)
    found = await store.find_project(tx, query.project)
    return [found] if found is not None and _matches(found, query) else []


async def create(tx: Transaction, project: Project, context: Context, actor: Actor) -> Project:
    """Store a new project."""
    made = await store.insert_project(tx, project.model_copy(update={"id": new_id("prj")}))
    await changes.record(tx, "project", [made.id])
    return made


async def update(tx: Transaction, before: Project, wanted: Project, context: Context, actor: Actor) -> Project | None:
    """Replace tags, limits and description; None when nothing differs."""
    if (before.spec, before.metadata.tags) == (wanted.spec, wanted.metadata.tags):
        return None
    changed = await store.update_project(tx, wanted.model_copy(update={"id": before.id}))
    await changes.record(tx, "project", [before.id])
    return changed


async def delete(tx: Transaction, project: Project, context: Context, actor: Actor) -> None:
    """Delete an empty project.

    Raises:
        Conflict: something stands in it, or it is the default one.
    """
    require_administrator(actor, "delete projects")
    name = project.metadata.name
    if name == DEFAULT_PROJECT:
        raise Conflict(f"The project '{name}' can't be deleted.", next_step="Delete what stands in it instead.")
    left = [f"{count} {word}(s)" for word, count in (await store.project_contents(tx, name)).items() if count]
    if left:
        raise Conflict(f"The project '{name}' still holds {', '.join(left)}.", next_step="Delete these first.")
    await store.delete_project(tx, project.id)
    await changes.record(tx, "project", [project.id])


def _matches(project: Project, query: Query) -> bool:
    """Whether the one project asked for fits the rest of the query, too."""
    name, tags = project.metadata.name, project.metadata.tags
    seen = query.after is not None and (name, project.id) <= query.after
    tagged = query.tag is None or tags.get(query.tag[0]) == query.tag[1]
    return tagged and not seen and query.text.lower() in name
