"""How work is done, never what comes out of it: caching, parallel processes. No stage depends on it."""
