"""All benchmarks, one after another: ``make bench``, or ``python -m benchmarks``.

``--quick`` shows in a few minutes that they run, and keeps no figures. ``--isa avx2`` imitates a
processor without AVX-512; a single benchmark does so under the variables of `IMITATED`.
"""

import os
import subprocess
import sys

import click

from benchmarks import page
from benchmarks.measure import IMITATED

NAMES = (
    "training_step",
    "under_load",
    "optimizer",
    "finetuning",
    "generation",
    "tokenization",
    "windows",
    "startup",
    "tracking_overhead",
)


@click.command()
@click.option("--quick", is_flag=True, help="Tiny sizes, no figures kept.")
@click.option("--isa", type=click.Choice(list(IMITATED)), help="A smaller processor to imitate.")
def main(quick: bool, isa: str | None) -> None:
    """Run every benchmark on this machine; leave it alone meanwhile."""
    environment = {**os.environ, **IMITATED.get(isa or "", {})}
    failed = []
    for name in NAMES:
        print(f"\n== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if quick else [])]
        if subprocess.run(command, env=environment).returncode:
            failed.append(name)
    if not quick:
        page.write()
    if failed:
        sys.exit(f"error: these benchmarks failed: {', '.join(failed)}")


main()
