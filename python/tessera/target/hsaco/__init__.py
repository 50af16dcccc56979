"""The target ``hsaco``: Tile IR → Triton source → code objects of AMD GPUs."""
