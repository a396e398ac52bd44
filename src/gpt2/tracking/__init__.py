"""Experiment tracking with MLflow: one run per stage, all runs of one ``dvc repro`` in one parent.

`tracker` is what stages use. It sends from a thread through an `active_run`, which `open_run` has
created or found in the `store`; `registry` adds models. `context` and `names` say what runs and
metrics are called.
"""
