"""The stages of the pipeline. ``dvc repro`` runs each as ``python -m stages.<name>``."""

import sys
from pathlib import Path

# A stage must use the code beside it, also in the temporary copy of `dvc exp run --temp`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import gpt2  # noqa: F401  sets how long threads spin, before torch is loaded
