"""GPT-2 from scratch: from text to a judged, instruction-following model."""

import os
from pathlib import Path

SPINS, SPINS_BESIDE_OTHERS = 10_000, 1000
"""How often a thread of GNU's OpenMP looks for work before it sleeps; by default 300,000 times."""


def wait_briefly() -> None:
    """Let threads that wait for each other sleep soon. To be called before torch is loaded.

    Who has set OMP_WAIT_POLICY or GOMP_SPINCOUNT knows better.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(spins()))


def spins() -> int:
    """GOMP_SPINCOUNT for this machine as it is now.

    Once another process runs, too, a thread that spins for milliseconds keeps from the processor
    the very thread that it waits for, and a training step takes three to six times as long.
    Sleeping after 200 looks costs a quiet machine up to a third (docs/log.md).
    """
    return SPINS_BESIDE_OTHERS if _others_run() else SPINS


def _others_run() -> bool:
    """Whether more than this process is running now, on Linux."""
    load = Path("/proc/loadavg")
    return load.exists() and int(load.read_text(encoding="utf-8").split()[3].partition("/")[0]) > 1


wait_briefly()
