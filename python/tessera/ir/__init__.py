"""Graph IR: dtypes, dimensions, values, graphs, text form, verifier, provenance."""
