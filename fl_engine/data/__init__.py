"""Readers and built-in tasks. Import from the file that has the noun: `dataset`, `readers`, `tasks`."""
