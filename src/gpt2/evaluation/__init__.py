"""Scores for responses: text metrics, and a language model as judge."""
