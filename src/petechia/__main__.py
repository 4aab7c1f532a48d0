"""`python -m petechia`."""

from petechia.cli.commands import app

app()
