"""A run: its configuration, its directory, its phases."""

from petechia.study.config import Config, load_config
from petechia.study.directory import RunDirectory
from petechia.study.progress import Epoch, StudyProgress
from petechia.study.result import Run
from petechia.study.runner import free_directory, run

__all__ = ["Config", "Epoch", "Run", "RunDirectory", "StudyProgress", "free_directory", "load_config", "run"]
