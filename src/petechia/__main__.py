"""`python -m petechia`."""

from petechia.cli.app import app

app()
