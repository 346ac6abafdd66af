"""This machine: CPU, GPU and installed packages."""
