"""The dashboard: a read-only web page over run folders and a pool, for the coordinator's people."""
