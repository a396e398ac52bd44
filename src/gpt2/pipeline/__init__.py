"""The pipeline as a whole: its parameters, estimates, machine checks, and what stages share."""
