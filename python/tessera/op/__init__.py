"""Operators: OpDef, the registry, one file per family, and the user's ``op`` namespace."""
