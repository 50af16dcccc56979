"""tessera.artifact"""
