"""All benchmarks, one after another: ``make bench``, or ``python -m benchmarks``.

``--quick`` shows in a few minutes that they run, and keeps no figures.
"""

import subprocess
import sys

import click

from benchmarks import page

NAMES = (
    "training_step",
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
def main(quick: bool) -> None:
    """Run every benchmark on this machine; leave it alone meanwhile."""
    failed = []
    for name in NAMES:
        print(f"\n== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if quick else [])]
        if subprocess.run(command).returncode:
            failed.append(name)
    if not quick:
        page.write()
    if failed:
        sys.exit(f"error: these benchmarks failed: {', '.join(failed)}")


main()
