"""The knowledge pool: tasks, what was tried on them, what came of it, and who signed it.

A pool is a database: a SQLite file, or PostgreSQL by its URL. Tasks and experiments are known by
the SHA-256 of what they say, so that adding something twice changes nothing.
"""

from fl_server.pool.session import Pool as Pool
from fl_server.pool.session import open_pool as open_pool

__all__ = ["Pool", "open_pool"]
