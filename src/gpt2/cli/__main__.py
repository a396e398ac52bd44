"""``python -m gpt2.cli`` runs the command ``gpt2``."""

from gpt2.cli.main import main

main(prog_name="gpt2")
