"""Benchmarks of the GPU targets."""
