"""The first row of a table, looked at before a library reads it all."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from petechia.errors import PetechiaError

MOST_COLUMNS = 10_000
LONGEST = 1 << 20  # bytes of the first row


def check_header(path: Path, separator: str = ",") -> None:
    """Refuse a table of very many columns: polars takes kilobytes for each, and aborts the process where there is no memory.

    Raises:
        PetechiaError: it has more than `MOST_COLUMNS`, or a first row of more than `LONGEST` bytes.
    """
    with path.open("rb") as file:
        head = file.read(LONGEST)
    rows = csv.reader(io.StringIO(head.decode(errors="replace"), newline=""), delimiter=separator)
    try:
        columns = len(next(rows, []))
        endless = len(head) == LONGEST and next(rows, None) is None
    except csv.Error:  # a field of more than 131,072 characters
        endless = True
    if endless or columns > MOST_COLUMNS:
        raise PetechiaError(f"{path} has a first row that is longer than that of any table; restore the file.")
