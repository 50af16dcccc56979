"""The ``.tsr`` file: a safetensors file that holds graph, weights, plans and kernels."""
