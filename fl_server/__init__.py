"""The coordinator: exchange, decisions, training arms, run folder, report and its commands."""
