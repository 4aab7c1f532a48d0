from petechia.core.progress import SILENT
from petechia.study.progress import StudyProgress


class Plain:
    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []

    def phase(self, name: str, total: int = 0) -> None:
        self.heard.append((name, total))

    def advance(self, count: int = 1) -> None:
        self.heard.append(("+", count))


def test_anything_with_two_methods_hears_a_run() -> None:
    plain = Plain()
    heard = StudyProgress.of(plain)
    heard.expect(10)
    heard.phase("training", 3, work=4)
    heard.advance(2)
    heard.note("nothing")
    assert plain.heard == [("training", 3), ("+", 2)]


def test_a_study_progress_is_taken_as_it_is_and_none_is_silent() -> None:
    own = StudyProgress()
    assert StudyProgress.of(own) is own
    StudyProgress.of(None).phase("x", 1)
    SILENT.phase("x", 1)
    SILENT.advance()
