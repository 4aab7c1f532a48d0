"""Catch a backdoor in a dataset, in a single image and in a model."""
