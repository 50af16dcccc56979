"""Tessera: a compiler and a runtime for tensor programs."""

__version__ = "0.1.0"
