"""Whether this machine has what the pipeline needs: all checks of ``gpt2 doctor``."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from gpt2.pipeline.checks import machine, project, sources
from gpt2.pipeline.checks.check import Check
from gpt2.pipeline.needs import Needs


def examine(root: Path, needs: Needs | None) -> list[Check]:
    """Run all checks in parallel; without ``needs``, only those that do not depend on a profile."""
    processor = machine.processor()  # first and alone: the other checks keep the processor busy
    checks: list[Callable[[], Check]] = [
        machine.python_version,
        partial(machine.pinned_packages, root / "requirements.txt"),
        lambda: processor,
        partial(machine.gpu, needs.devices if needs else ()),
        partial(machine.compiler, needed=bool(needs and needs.compiled)),
        partial(project.git, root),
        partial(project.dvc, root),
        partial(project.mlflow, root),
    ]
    if needs:
        checks += [
            partial(machine.disk, root, needs.disk),
            partial(machine.memory, needs.memory, needs.devices),
            partial(sources.judge, needs.judge, needs.evaluation, root),
            *(partial(sources.package_index, wheel) for wheel in needs.wheels),
            *(partial(sources.address, url) for url in needs.addresses),
            *(partial(sources.own_files, source, root) for source in needs.sources),
        ]
        if needs.packages:
            checks.append(partial(sources.installed, needs.packages))
        if needs.checkpoint:
            checks.append(partial(sources.checkpoint, root / needs.checkpoint))
    with ThreadPoolExecutor(len(checks)) as pool:
        return [done.result() for done in [pool.submit(check) for check in checks]]
