"""The target ``ptx``: Tile IR → Triton source → PTX and cubins, for NVIDIA GPUs."""
