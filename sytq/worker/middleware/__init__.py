"""Dramatiq middleware, one concern a file. Hooks read result, exception and outcome from the delivery."""
