"""The capabilities of a server, and the encodings of requests and results."""
