"""Check of a site's ``[tracking]``: found out here, it costs no run."""

from __future__ import annotations

from collections.abc import Iterator

from fl_client.finding import Finding, Visit, failed, ok
from fl_client.site_file import SITE_FILE, read_site_file
from fl_client.tracking import place_of
from protocol.errors import ConfigError
from protocol.tracking import require_installed


def check_tracking(visit: Visit) -> Iterator[Finding]:
    """See that what writes training curves is installed, and say where they go."""
    folder = visit.settings.folder
    table = read_site_file(folder / SITE_FILE).tracking
    if table.logger is None:
        return
    try:
        require_installed(table.logger)
    except ConfigError as error:
        mend = "install it, or take [tracking] out of site.toml"
        yield failed("tracking", str(error), mend, "tracking-missing")
        return
    yield ok("tracking", f"{table.logger}, {place_of(folder, visit.settings.state, table.to)}")
