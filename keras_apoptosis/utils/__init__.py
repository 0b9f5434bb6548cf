"""Checks of arguments, tables and serialization."""
