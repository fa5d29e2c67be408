"""Training operations of one model, in order."""
