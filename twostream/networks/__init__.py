"""The networks: a registry over names, the networks themselves, and where their weights come from."""
