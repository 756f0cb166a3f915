"""Numbered migrations of the tables of `llm`."""
