"""Limits on samples that are being dispatched: by number, by bytes, and by a pace after a 429."""
