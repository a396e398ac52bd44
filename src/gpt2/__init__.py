"""GPT-2 from scratch: from raw text to an instruction-following model and its evaluation.

Import it before torch: it sets how long waiting threads spin, which OpenMP reads only once.
"""

import os
from pathlib import Path

SPINS, SPINS_BESIDE_OTHERS = 10_000, 1000
"""Values of GOMP_SPINCOUNT on an idle and on a busy machine: how often a waiting thread of GNU
OpenMP polls before it sleeps. GNU's default is 300,000."""


def limit_spinning() -> None:
    """Let waiting OpenMP threads sleep early. Call it before torch is loaded.

    A value of OMP_WAIT_POLICY or GOMP_SPINCOUNT that the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(spins()))


def spins() -> int:
    """GOMP_SPINCOUNT for the current load of this machine.

    When other processes run, a thread that spins for milliseconds takes the core from the very
    thread that it waits for, and a training step takes three to six times as long. Sleeping after
    200 polls slows down an idle machine by up to a third (docs/log.md).
    """
    return SPINS_BESIDE_OTHERS if _others_run() else SPINS


def _others_run() -> bool:
    """Whether processes other than this one are running now (Linux only)."""
    load = Path("/proc/loadavg")
    return load.exists() and int(load.read_text(encoding="utf-8").split()[3].partition("/")[0]) > 1


limit_spinning()
