"""What a server supports, and how requests and results are encoded for it."""
