"""Arithmetic on the rankings of many pairs at once."""
