"""Limits on concurrent sampling dispatch: by count, by bytes and by recent backoff."""
