"""Inference engines: one contract in `base`, one thin file per library."""
