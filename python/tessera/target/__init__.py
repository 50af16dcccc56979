"""tessera.target"""
