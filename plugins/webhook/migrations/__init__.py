"""Numbered migrations of the tables of `webhook`."""
