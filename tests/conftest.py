"""Fixtures for everybody, and skips that can't hide."""
