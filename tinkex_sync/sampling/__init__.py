"""One sample from submission to result, and many of them."""
