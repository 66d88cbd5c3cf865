"""Measurements behind the figures of the README; run by ``scripts/bench``."""
