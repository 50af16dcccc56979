"""tessera.interop"""
