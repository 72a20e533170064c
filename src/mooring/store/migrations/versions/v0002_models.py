"""What the loop found out about a service's model, and the last version that ran well."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# The defaults of version 0001, which it wrote into every spec. They now stand for "not asked for".
OLD_DEFAULTS = {"cpu": 1, "memory": "1Gi"}


def upgrade() -> None:
    op.add_column("services", sa.Column("engine", sa.Text, nullable=False, server_default=""))
    op.add_column("services", sa.Column("types", sa.JSON, nullable=False, server_default="[]"))
    op.add_column("services", sa.Column("good", sa.JSON, nullable=False, server_default="{}"))
    op.add_column("replicas", sa.Column("adapters", sa.JSON, nullable=False, server_default="[]"))
    _forget_old_defaults(op.get_bind())


def _forget_old_defaults(connection: sa.Connection) -> None:
    table = sa.table("services", sa.column("id", sa.Text), sa.column("kind", sa.Text), sa.column("spec", sa.JSON))
    found = connection.execute(sa.select(table.c.id, table.c.spec).where(table.c.kind == "ModelService")).all()
    for service_id, stored in found:
        spec = json.loads(stored) if isinstance(stored, str) else stored
        resources = spec.get("resources") or {}
        kept = {name: value for name, value in resources.items() if OLD_DEFAULTS.get(name) != value}
        if kept != resources:
            changed = {**spec, "resources": kept}
            connection.execute(sa.update(table).where(table.c.id == service_id).values(spec=changed))
