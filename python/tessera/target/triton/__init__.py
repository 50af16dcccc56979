"""Tile IR → Triton source → machine code of GPUs: what the targets ``ptx`` and ``hsaco`` share."""
