"""One HTTP call: the table of endpoints, the transport, authentication and retries."""
