"""edgekit's version, for whoever must not import more than that."""

__version__ = "0.2.0"
