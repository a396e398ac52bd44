"""The seven stages of the pipeline, each run by ``dvc repro`` as ``python -m stages.<name>``."""

import sys
from pathlib import Path

# A stage must run the code beside it, also in the temporary copy of `dvc exp run --temp`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import gpt2  # noqa: F401  decides how threads wait, before torch is loaded
