from petechia.core.errors import first_line, printable, shown


def test_what_a_terminal_would_obey_is_not_shown() -> None:
    assert printable("a\x1b[31mb\nc\0") == "a�[31mb�c�"
    assert printable("Größe") == "Größe"
    assert printable("a" * 61) == "a" * 59 + "…"


def test_values_are_shown_as_python_writes_them_but_cut() -> None:
    assert (shown("a'b"), shown([1, "x"]), shown(None)) == ('"a\'b"', "[1, 'x']", "None")
    assert shown(10**10_000) == "a very long number"
    endless: list[object] = []
    endless += [endless] * 1000
    assert len(shown(endless)) <= 120


def test_credentials_in_urls_are_not_shown() -> None:
    error = OSError("https://jane:hunter2@host:5000/api, sqlite:////home/me@work/a.db and ftp://t0ken@x are away.")
    assert first_line(error) == "https://host:5000/api, sqlite:////home/me@work/a.db and ftp://x are away"
