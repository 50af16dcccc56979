"""Benchmarks of programs on meshes."""
