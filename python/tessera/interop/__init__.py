"""Concrete arrays and their exchange with NumPy, PyTorch, JAX and every library that speaks DLPack."""
