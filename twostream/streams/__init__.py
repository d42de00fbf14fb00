"""Train and score one stream."""
