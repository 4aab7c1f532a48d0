"""`python -m petechia`."""

from petechia.cli import app

app()
