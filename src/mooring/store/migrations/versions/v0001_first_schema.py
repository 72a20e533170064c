"""The first schema."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def _id() -> sa.Column:
    return sa.Column("id", sa.Text, primary_key=True)


def _need(name: str, kind: type | sa.types.TypeEngine) -> sa.Column:
    return sa.Column(name, kind, nullable=False)


def _texts(*names: str) -> list[sa.Column]:
    return [_need(name, sa.Text) for name in names]


def upgrade() -> None:
    _create_accounts()
    _create_services()
    _create_endpoints_and_keys()
    _create_usage()
    _create_running()


def _create_accounts() -> None:
    meta = op.create_table("meta", sa.Column("name", sa.Text, primary_key=True), _need("value", sa.Text))
    op.bulk_insert(meta, [{"name": "epoch", "value": str(uuid.uuid4())}, {"name": "version", "value": "0"}])
    op.create_table(
        "projects",
        _id(),
        *_texts("name"),
        _need("tags", sa.JSON),
        _need("limits", sa.JSON),
        *_texts("description"),
        _need("created_at", MOMENT),
        sa.UniqueConstraint("name", name="uq_projects_name"),
    )
    op.create_table(
        "users",
        _id(),
        *_texts("name", "password_hash", "role"),
        _need("enabled", sa.Boolean),
        _need("created_at", MOMENT),
        sa.UniqueConstraint("name", name="uq_users_name"),
    )
    op.create_table(
        "secrets",
        _id(),
        *_texts("project", "name", "type"),
        _need("sealed", sa.LargeBinary),
        _need("tags", sa.JSON),
        _need("created_at", MOMENT),
        sa.UniqueConstraint("project", "name", name="uq_secrets_project_name"),
    )


def _create_services() -> None:
    op.create_table(
        "services",
        _id(),
        *_texts("project", "name", "slug", "kind"),
        _need("spec", sa.JSON),
        _need("tags", sa.JSON),
        _need("spec_version", sa.Integer),
        *_texts("state", "reason"),
        _need("progress", sa.JSON),
        _need("detail", sa.JSON),
        _need("enabled", sa.Boolean),
        _need("created_at", MOMENT),
        _need("updated_at", MOMENT),
        sa.UniqueConstraint("project", "name", name="uq_services_project_name"),
        sa.UniqueConstraint("project", "slug", name="uq_services_project_slug"),
    )
    op.create_table(
        "replicas",
        _id(),
        *_texts("service_id"),
        _need("spec_version", sa.Integer),
        *_texts("state", "reason", "address", "engine_key", "served_model", "recipe"),
        _need("slots", sa.Integer),
        _need("context_length", sa.Integer),
        sa.Column("pid", sa.Integer),
        _need("restarts", sa.Integer),
        sa.Column("next_start_at", MOMENT),
        sa.Column("started_at", MOMENT),
        sa.Column("ready_at", MOMENT),
    )
    op.create_index("ix_replicas_service_id", "replicas", ["service_id"])


def _create_endpoints_and_keys() -> None:
    op.create_table(
        "endpoints",
        _id(),
        *_texts("project", "name"),
        _need("spec", sa.JSON),
        _need("tags", sa.JSON),
        _need("enabled", sa.Boolean),
        _need("created_at", MOMENT),
        _need("updated_at", MOMENT),
        _need("spec_version", sa.Integer),
        sa.UniqueConstraint("project", "name", name="uq_endpoints_project_name"),
    )
    op.create_table(
        "api_keys",
        _id(),
        *_texts("project", "label", "description", "owner"),
        _need("digest", sa.LargeBinary),
        _need("access_digest", sa.LargeBinary),
        sa.Column("endpoints", sa.JSON),
        *_texts("access"),
        _need("limits", sa.JSON),
        sa.Column("expires_at", MOMENT),
        _need("enabled", sa.Boolean),
        _need("tags", sa.JSON),
        _need("created_at", MOMENT),
        sa.UniqueConstraint("owner", "project", "label", name="uq_api_keys_owner_project_label"),
        sa.UniqueConstraint("digest", name="uq_api_keys_digest"),
        sa.UniqueConstraint("access_digest", name="uq_api_keys_access_digest"),
    )


def _create_usage() -> None:
    op.create_table(
        "usage_requests",
        sa.Column("request_id", sa.Text, primary_key=True),
        *_texts("endpoint_id", "service_id", "replica_id", "key_id", "project", "dialect", "operation"),
        _need("status", sa.Integer),
        *_texts("ended"),
        _need("estimated", sa.Boolean),
        _need("prompt_tokens", sa.BigInteger),
        _need("completion_tokens", sa.BigInteger),
        _need("cached_tokens", sa.BigInteger),
        _need("reasoning_tokens", sa.BigInteger),
        _need("started_at", sa.Double),
        _need("ttft_ms", sa.Double),
        _need("latency_ms", sa.Double),
        _need("ended_at", sa.Double),
    )
    op.create_index("ix_usage_requests_started_at", "usage_requests", ["started_at"])
    op.create_index("ix_usage_requests_project_started_at", "usage_requests", ["project", "started_at"])
    op.create_table(
        "journal_cursors",
        sa.Column("writer", sa.Text, primary_key=True),
        _need("segment", sa.BigInteger),
        _need("offset", sa.BigInteger),
    )


def _create_running() -> None:
    op.create_table(
        "changes",
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("object_id", sa.Text, primary_key=True),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        *_texts("service_id", "replica_id"),
        _need("at", MOMENT),
        *_texts("level", "reason", "message"),
    )
    op.create_index("ix_events_service_id", "events", ["service_id", "id"])
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, primary_key=True),
        *_texts("holder"),
        _need("expires_at", MOMENT),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        _need("at", MOMENT),
        *_texts("actor", "action", "kind", "object_id", "project"),
        _need("detail", sa.JSON),
    )
    op.create_index("ix_audit_at", "audit", ["at"])
