"""Answers become scores: text metrics and a language model as judge."""
