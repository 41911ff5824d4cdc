"""Where candidates are measured: by workers in processes of this machine, or by Ray's anywhere.

One protocol (`base.Executor`); without workers the search's own process measures (`loop.Loop`).
"""
