"""Model processes and what goes to and fro: see ``pool.WorkerPool``.

Empty on purpose: the model process imports this package, and must stay small.
"""
