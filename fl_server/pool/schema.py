"""The version of a pool's tables: made or brought up to date when it is opened."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from protocol.errors import ConfigError

MIGRATIONS = Path(__file__).parent / "migrations"


def current(connection: Connection) -> str | None:
    """Return the version of the tables, None where there are none."""
    return MigrationContext.configure(connection).get_current_revision()


def newest() -> str:
    """Return the version that this fedprint works with."""
    head = _scripts().get_current_head()
    assert head is not None
    return head


def check(connection: Connection, where: str) -> bool:
    """Tell whether the tables are of this version; False where steps are missing.

    Raises
    ------
    ConfigError
        When the database is another program's, or of a newer fedprint.
    """
    found = current(connection)
    if found == newest():
        return True
    if found is None:
        others = sorted(inspect(connection).get_table_names())
        if others and others != ["alembic_version"]:
            raise ConfigError(
                f"{where} is no pool: it holds the table {others[0]!r}: name another place"
            )
        return False
    if found not in {step.revision for step in _scripts().walk_revisions()}:
        raise ConfigError(
            f"{where} was written by a newer fedprint (tables of version {found}, this one knows "
            f"{newest()}): update fedprint"
        )
    return False


def upgrade(connection: Connection) -> None:
    """Take the missing steps, in the transaction that the connection is in."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(MIGRATIONS))
