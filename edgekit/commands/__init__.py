"""One file for each command: open what was given, let the rooms work, return a report."""
