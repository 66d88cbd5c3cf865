"""Composition root: a configuration becomes a pipeline of concrete parts.

Nothing below this knows which source, model, effect or sink it works with. ``files`` makes file
jobs, ``live`` live streams; ``parts`` is what both need.
"""
