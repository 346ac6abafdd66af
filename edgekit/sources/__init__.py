"""What SOURCE may be, turned into a bundle."""
