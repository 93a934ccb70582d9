"""Labelled messages as training data, and metrics of a classifier."""
