"""Many requests at once: the engine that steps them together, and the server that speaks for it.

engine    one thread owns the model: who is let in, what a tick runs, what comes out
"""
