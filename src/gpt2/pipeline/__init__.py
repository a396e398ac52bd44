"""The pipeline as a whole: its parameters, its plan, the frame of a stage."""
