"""tessera.target.cpu"""
