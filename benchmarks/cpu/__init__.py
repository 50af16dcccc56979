"""CPU benchmarks side by side with PyTorch, JAX and ONNX Runtime."""
