"""The checks of ``gpt2 doctor``. All are quick, change nothing, and return problems as findings."""
