"""Run by Alembic: applies the steps on the connection that `fl_server.pool.schema` hands over."""

from alembic import context

from fl_server.pool.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,  # of SQLite, too: the caller has begun a transaction
)
with context.begin_transaction():
    context.run_migrations()
