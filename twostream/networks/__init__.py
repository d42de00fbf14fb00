"""Networks: a registry by name, the networks themselves, and their weights."""
