"""The tables as SQLAlchemy Core sees them, for the files in `store/` only. The migrations make the schema."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect


class Moment(sa.types.TypeDecorator[datetime]):
    """An aware UTC time. SQLite keeps no zone: it is taken off on the way in and put back on the way out."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what goes into the database."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone must not reach the store")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return an aware time."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = sa.MetaData()


def _text(name: str, *args: Any, default: str | None = "", **options: Any) -> sa.Column[str]:
    return sa.Column(name, sa.Text, *args, nullable=False, default=default, **options)


def _json(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON, nullable=False, default=dict)


meta = sa.Table(
    "meta",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
"""`epoch` names this database (a UUID); `version` counts the committed changes that gateways must hear of.
Both are text; use `store.changes` to read and advance them."""

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _text("name", default=None),
    _json("tags"),
    _json("limits"),
    _text("description"),
    sa.Column("created_at", Moment, nullable=False),
    sa.UniqueConstraint("name", name="uq_projects_name"),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _text("name", default=None),
    _text("password_hash"),
    _text("role", default=None),  # administrator | member
    sa.Column("enabled", sa.Boolean, nullable=False, default=True),
    sa.Column("created_at", Moment, nullable=False),
    sa.UniqueConstraint("name", name="uq_users_name"),
)

secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _text("project", default=None),
    _text("name", default=None),
    _text("type", default="Opaque"),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    _json("tags"),
    sa.Column("created_at", Moment, nullable=False),
    sa.UniqueConstraint("project", "name", name="uq_secrets_project_name"),
)

services = sa.Table(
    "services",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _text("project", default=None),
    _text("name", default=None),
    _text("slug", default=None),  # name with dots as dashes: the form that fits into host names
    _text("kind", default=None),  # ModelService | ExternalService
    _json("spec"),
    _json("tags"),
    sa.Column("spec_version", sa.Integer, nullable=False, default=1),
    _text("state", default="pending"),
    _text("reason"),
    _json("progress"),
    _json("detail"),
    _text("engine"),  # which one runs it, found out from its files; "" = not known yet
    _json("types"),  # kinds of call it answers, found out from its files; [] = not known yet
    _json("good"),  # {"version", "recipe"} of the last version that ran well: what a roll-back goes back to
    sa.Column("enabled", sa.Boolean, nullable=False, default=True),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
    sa.UniqueConstraint("project", "name", name="uq_services_project_name"),
    sa.UniqueConstraint("project", "slug", name="uq_services_project_slug"),
)

replicas = sa.Table(
    "replicas",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _text("service_id", default=None, index=True),
    sa.Column("spec_version", sa.Integer, nullable=False),
    _text("state", default="pending"),
    _text("reason"),
    _text("address"),
    _text("engine_key"),
    _text("served_model"),
    _json("adapters"),  # names, in the order in which its engine was given them
    sa.Column("slots", sa.Integer, nullable=False, default=0),
    sa.Column("context_length", sa.Integer, nullable=False, default=0),
    _text("recipe"),  # digest of the part of the spec that the process was started from
    sa.Column("pid", sa.Integer, nullable=True),
    sa.Column("restarts", sa.Integer, nullable=False, default=0),
    sa.Column("next_start_at", Moment, nullable=True),
    sa.Column("started_at", Moment, nullable=True),
    sa.Column("ready_at", Moment, nullable=True),
)

endpoints = sa.Table(
    "endpoints",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _text("project", default=None),
    _text("name", default=None),
    _json("spec"),
    _json("tags"),
    sa.Column("enabled", sa.Boolean, nullable=False, default=True),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
    sa.Column("spec_version", sa.Integer, nullable=False, default=1),
    sa.UniqueConstraint("project", "name", name="uq_endpoints_project_name"),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _text("project", default=None),
    _text("label", default=None),
    _text("description"),
    _text("owner", default=None),  # user id
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("access_digest", sa.LargeBinary, nullable=False),
    sa.Column("endpoints", sa.JSON(none_as_null=True), nullable=True),  # ids; null = all
    _text("access", default="inference"),  # full | inference
    _json("limits"),
    sa.Column("expires_at", Moment, nullable=True),
    sa.Column("enabled", sa.Boolean, nullable=False, default=True),
    _json("tags"),
    sa.Column("created_at", Moment, nullable=False),
    sa.UniqueConstraint("owner", "project", "label", name="uq_api_keys_owner_project_label"),
    sa.UniqueConstraint("digest", name="uq_api_keys_digest"),
    sa.UniqueConstraint("access_digest", name="uq_api_keys_access_digest"),
)

changes = sa.Table(
    "changes",
    metadata,
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, primary_key=True),  # key | project | service | endpoint
    sa.Column("object_id", sa.Text, primary_key=True),
)

usage_requests = sa.Table(
    "usage_requests",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    _text("endpoint_id"),
    _text("service_id"),
    _text("replica_id"),
    _text("key_id"),
    _text("project"),
    _text("dialect"),
    _text("operation"),
    sa.Column("status", sa.Integer, nullable=False),
    _text("ended"),
    sa.Column("estimated", sa.Boolean, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),  # Unix seconds, as in the journal
    sa.Column("ttft_ms", sa.Double, nullable=False),
    sa.Column("latency_ms", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double, nullable=False),
    sa.Index("ix_usage_requests_started_at", "started_at"),
    sa.Index("ix_usage_requests_project_started_at", "project", "started_at"),
)

journal_cursors = sa.Table(
    "journal_cursors",
    metadata,
    sa.Column("writer", sa.Text, primary_key=True),
    sa.Column("segment", sa.BigInteger, nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    _text("service_id"),
    _text("replica_id"),
    sa.Column("at", Moment, nullable=False),
    _text("level"),
    _text("reason"),
    _text("message"),
    sa.Index("ix_events_service_id", "service_id", "id"),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    _text("holder"),
    sa.Column("expires_at", Moment, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", Moment, nullable=False),
    _text("actor"),
    _text("action"),
    _text("kind"),
    _text("object_id"),
    _text("project"),
    _json("detail"),
    sa.Index("ix_audit_at", "at"),
)
