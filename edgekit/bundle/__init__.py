"""Bundles: a folder that proves itself."""
