"""Shared building blocks: errors, settings, files, randomness, threads, devices. Imports no other package of Petechia."""
