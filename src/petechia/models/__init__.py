"""The victim network and its training, and models that others made."""
