"""Project: the tenant. Everything but users and projects stands in one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mooring.core.objects import GlobalMetadata, Limits, Noun, Resource, Status, Text


class ProjectSpec(Noun, frozen=True):
    """What bounds all calls in a project."""

    description: Text = ""
    limits: Limits = Limits()


class Project(Resource[GlobalMetadata, ProjectSpec, Status], frozen=True):
    """A tenant."""

    kind: Literal["Project"] = "Project"
    status: Status = Field(default=Status(state="Active"))
