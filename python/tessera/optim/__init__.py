"""tessera.optim"""
