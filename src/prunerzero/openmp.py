"""How torch's OpenMP threads wait for work; to be settled before torch is imported."""

import os

SPINS = "5000"


def wait_patiently() -> None:
    """Lets idle OpenMP threads spin only briefly, unless the user has said otherwise.

    A spinning thread keeps a core from our own threads (`prunerzero.threads`), which made masks
    take twice as long, and from any other process: two torch processes on the same cores slowed
    each other many times over. But waking a thread that sleeps takes so long that a pass over few
    tokens, hundreds of small operations, took twice as long. So they spin for a moment (with GNU's
    library some 0.2 ms), which bridges the gap to a pass's next operation, and sleep then.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
