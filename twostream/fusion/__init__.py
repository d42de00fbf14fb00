"""From the scores of several streams to fused scores and metrics."""
