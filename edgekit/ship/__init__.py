"""A bundle in other people's formats."""
