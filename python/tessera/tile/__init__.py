"""tessera.tile"""
