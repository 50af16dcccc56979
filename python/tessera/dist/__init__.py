"""tessera.dist"""
