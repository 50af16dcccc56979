"""tessera.transform"""
