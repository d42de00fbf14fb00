"""Trained models on new videos: predict, annotate, export, serve."""
