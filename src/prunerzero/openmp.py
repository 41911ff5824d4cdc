"""How torch's OpenMP threads wait for work; to be settled before torch is imported."""

import os


def wait_passively() -> None:
    """Lets idle OpenMP threads sleep instead of spin, unless the user has said otherwise.

    A spinning thread keeps a core from our own threads (`prunerzero.threads`), which made masks
    take twice as long, and from any other process: two torch processes on the same cores slowed
    each other many times over. Forward passes are as fast either way.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
