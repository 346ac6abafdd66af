"""Reports: what a command found, as data."""
