"""The one error that users see."""


class PetechiaError(Exception):
    """A problem that the user can solve. The message is one sentence: what, where (file, row, key), what to do."""
