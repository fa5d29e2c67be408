"""Training operations of one model: dispatched in order, with their results fetched in any order."""
