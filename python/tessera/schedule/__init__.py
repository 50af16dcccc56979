"""tessera.schedule"""
