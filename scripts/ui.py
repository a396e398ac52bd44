"""Show the runs in a browser: ``python -m scripts.ui`` starts the MLflow UI and prints its URL."""

import os
import socket
import sys
from pathlib import Path
from urllib.parse import quote

import click

import stages  # noqa: F401  puts src/ on the path
from gpt2.core.errors import UserError
from gpt2.core.streams import standard_streams
from gpt2.tracking.store import STORE, experiment_in_use, failures, first_line, own_store

HOST = "127.0.0.1"
LAST_PORT = 65535
SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def free_port(wanted: int) -> int:
    """The first free port from ``wanted`` on.

    Raises:
        UserError: no port is free, or the operating system denies it.
    """
    for port in range(wanted, LAST_PORT + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except PermissionError as error:
                raise UserError(
                    f"port {port}: {error.strerror}. Choose one from 1024 on: make ui PORT=5000"
                ) from error
            except OSError:
                continue
            return port
    raise UserError(f"no port is free from {wanted} on. Choose a lower one: make ui PORT=5000")


def runs_url(server: str, experiment: str) -> str:
    """The URL of the runs of an experiment."""
    return (
        f"{server.rstrip('/')}/#/experiments/{quote(experiment)}/runs?workflowType=machine_learning"
    )


def experiment_of(uri: str, root: Path) -> str:
    """The id of the experiment that the stages log to.

    Raises:
        UserError: it does not exist or is deleted, or the store fails.
    """
    nothing = UserError("there are no runs yet. First: make run")
    if uri == own_store(root) and not (root / STORE).is_file():
        raise nothing
    try:
        experiment = experiment_in_use(uri, root)
    except failures() as error:
        raise UserError(f"MLflow's store: {first_line(error)}") from error
    if not experiment:
        raise nothing
    return experiment


@click.command()
@click.option(
    "--port",
    type=click.IntRange(1, LAST_PORT),
    default=5000,
    show_default=True,
    help="Port to listen on; the next free one if it is in use.",
)
def main(port: int) -> None:
    """Show all runs in a browser, until Ctrl-C.

    If MLFLOW_TRACKING_URI is a server, print the URL of its own UI instead.
    """
    root = Path.cwd()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or own_store(root)
    if uri == "off":
        uri = own_store(root)
    try:
        experiment = experiment_of(uri, root)
        if uri.startswith(("http://", "https://")):
            click.echo(f"all runs: {runs_url(uri, experiment)}")
            return
        free = free_port(port)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    if free != port:
        click.echo(f"port {port} is in use; using {free}")
    click.echo(f"all runs: {runs_url(f'http://{HOST}:{free}', experiment)}")
    sys.stdout.flush()
    # A relative path, so that the path of the repository may have any characters.
    address = f"sqlite:///{STORE}" if uri == own_store(root) else uri
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", address]
    command += ["--host", HOST, "--port", str(free), "--workers", "1"]
    os.execve(sys.executable, command, {**os.environ, **SETTINGS})


if __name__ == "__main__":
    with standard_streams(needed=True):
        main()
