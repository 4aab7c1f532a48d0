"""Train the networks of a study on a Ray cluster. Ray does all scheduling; a lost task resumes after its last epoch."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from petechia.core.errors import PetechiaError, first_line, shown
from petechia.core.files import write_bytes, write_text
from petechia.study.directory import NetworkFiles
from petechia.study.gpu_share import kind_of, measured_share
from petechia.study.grid import NetworkTask
from petechia.study.networks import read_history
from petechia.study.progress import Epoch, StudyProgress
from petechia.study.study import FAILURES, StudyDirectory, TaskOutcome, perform

ATTEMPTS = 4  # for a task whose worker is lost
POLL = 0.3  # seconds between polls for events of the workers
MARK = ".shared"  # a file by which a worker recognises the study's folder

Files = dict[str, bytes]  # path below a network's folder → content


class StudyActor:
    """Runs beside the study's folder. Collects events of the workers, and serves files to workers that cannot see it."""

    def __init__(self, directory: StudyDirectory) -> None:
        self.directory = directory
        self.events: list[tuple[str, Any]] = []

    def tell(self, kind: str, content: Any) -> None:
        """Queue an event for the driver."""
        self.events.append((kind, content))

    def drain(self) -> list[tuple[str, Any]]:
        """Return the events since the last call."""
        events, self.events = self.events, []
        return events

    def files(self, key: str) -> Files:
        """Return the files that a network needs to resume: its state, its models and its scores."""
        files = self.directory.network(key)
        epochs = [log.epoch for log in read_history(files).logs]
        paths = [files.scores_of(epoch) for epoch in epochs] + [files.checkpoint(epoch) for epoch in epochs]
        paths += [files.checkpoints / "network.json", files.state]
        return {str(path.relative_to(files.checkpoints)): path.read_bytes() for path in paths if path.is_file()}

    def store(self, key: str, files: Files) -> None:
        """Write files of a network. The state is written last, because an epoch counts only when the state records it."""
        folder = self.directory.network(key).checkpoints
        for name in sorted(files, key=lambda name: name == "state.safetensors"):
            write_bytes(_below(folder, name), files[name])


def _below(folder: Path, name: str) -> Path:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise PetechiaError(f"A worker names the file {shown(name)}, which is not below its network's folder.")
    return folder / path


class RemoteProgress(StudyProgress):
    """Sends a worker's progress to the actor, with the work of many batches in one message."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.work = self.pending = 0.0
        self.last = time.monotonic()

    def expect(self, work: float) -> None:
        """Send the expected work."""
        self.actor.tell.remote("expect", work)

    def phase(self, name: str, total: int = 0, work: float = 0) -> None:
        """Remember the cost of an image."""
        self.work = work

    def advance(self, count: int = 1) -> None:
        """Send the work done, at most once per polling interval."""
        self.pending += count * self.work
        if self.pending and time.monotonic() - self.last > POLL:
            self.actor.tell.remote("work", self.pending)
            self.pending, self.last = 0, time.monotonic()

    def epoch(self, epoch: Epoch) -> None:
        """Send a finished epoch."""
        self.actor.tell.remote("epoch", epoch)


class UploadingProgress(RemoteProgress):
    """Uploads the files of a network before it reports an epoch."""

    def __init__(self, actor: Any, send: Callable[[], None]) -> None:
        super().__init__(actor)
        self.send = send

    def epoch(self, epoch: Epoch) -> None:
        """Upload the files, then report the epoch."""
        self.send()
        super().epoch(epoch)


def on_cluster(tasks: Sequence[NetworkTask], directory: StudyDirectory, progress: StudyProgress) -> Iterator[TaskOutcome]:
    """Distribute the tasks over the Ray cluster that this process is connected to, see `petechia.core.cluster`."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = StudyDirectory(directory.path.resolve())
    token = secrets.token_hex(16)
    write_text(here.path / MARK, token)
    beside_us = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = (
        ray.remote(StudyActor)
        .options(num_cpus=0, max_restarts=-1, max_task_retries=3, scheduling_strategy=beside_us)
        .remote(here)
    )
    shares = _gpu_shares(tasks, progress)

    def submit(task: NetworkTask) -> Any:
        compute = task.config.compute
        own = compute.model_copy(update={"threads": compute.threads or 1, "gpu_share": shares[task.key] or 1})
        given = replace(task, config=task.config.model_copy(update={"compute": own}))
        remote: Any = ray.remote(_work)
        options = {"num_cpus": own.threads, "num_gpus": shares[task.key], "max_retries": 0}
        return remote.options(**options).remote(given, here, token, actor, Path.cwd())

    lost: Counter[str] = Counter()
    running = {submit(task): task for task in tasks}
    progress.phase(f"training {len(tasks)} networks on Ray", 0, 1)
    while running:
        done, _ = ray.wait(list(running), num_returns=1, timeout=POLL)
        _pass_on(ray.get(actor.drain.remote()), progress)
        for reference in done:
            task = running.pop(reference)
            try:
                yield TaskOutcome(task, ray.get(reference))
            except ray.exceptions.RayTaskError as error:
                yield TaskOutcome(task, f"{type(error.cause).__name__}: {error.cause}")
            except ray.exceptions.RayError as error:  # the worker or its node is gone
                lost[task.key] += 1
                if lost[task.key] == ATTEMPTS:
                    yield TaskOutcome(task, f"its worker was lost {ATTEMPTS} times ({type(error).__name__}); check its memory.")
                else:
                    progress.note(
                        f"The worker of {task.name} was lost ({type(error).__name__}); it resumes after its last epoch."
                    )
                    running[submit(task)] = task
    _pass_on(ray.get(actor.drain.remote()), progress)
    (here.path / MARK).unlink(missing_ok=True)


def _pass_on(events: list[tuple[str, Any]], progress: StudyProgress) -> None:
    tell: dict[str, Callable[[Any], None]] = {"expect": progress.expect, "work": progress.advance, "epoch": progress.epoch}
    for kind, content in events:
        tell[kind](content)


def _gpu_shares(tasks: Sequence[NetworkTask], progress: StudyProgress) -> dict[str, float]:
    """The part of a GPU that each task asks for, by its key; where none was set, what a network of its kind needs."""
    import ray

    if not ray.cluster_resources().get("GPU", 0):  # type: ignore[no-untyped-call]
        return dict.fromkeys((task.key for task in tasks), 0)
    undecided = [task for task in tasks if task.config.compute.gpu_share == "auto"]
    unknown = {kind_of(task.config): task for task in undecided if task.config.compute.device != "cpu"}
    if unknown:
        progress.phase("measuring the memory of a network", 0, 1)
    remote: Any = ray.remote(_measured_share).options(num_gpus=1, max_retries=0)
    waiting = {kind: remote.remote(task, Path.cwd()) for kind, task in unknown.items()}
    measured: dict[str, float] = {}
    for kind, reference in waiting.items():
        try:
            measured[kind] = ray.get(reference)
        except ray.exceptions.RayError as error:  # the task itself will say why, if it fails, too
            progress.note(f"The memory of a network could not be measured ({first_line(error)}); it gets a whole GPU.")
            measured[kind] = 1
    found = {task.key: measured.get(kind_of(task.config), 0) for task in undecided}
    return {task.key: share for task in tasks if (share := task.config.compute.gpu_share) != "auto"} | found


def _measured_share(task: NetworkTask, cwd: Path) -> float:
    if cwd.is_dir():
        os.chdir(cwd)  # paths of data may be relative
    return measured_share(task)


def _work(task: NetworkTask, directory: StudyDirectory, token: str, actor: Any, cwd: Path) -> str | None:
    """Perform a task in the worker: in the study's folder if the worker can see it, otherwise in a temporary folder.

    The files of a temporary folder are sent to the actor.
    """
    if cwd.is_dir():
        os.chdir(cwd)  # paths of data may be relative
    try:
        if _is_shared(directory, token):
            perform(task, directory.network(task.key), RemoteProgress(actor))
        else:
            _perform_elsewhere(task, actor)
    except FAILURES as error:
        return str(error)
    return None


def _is_shared(directory: StudyDirectory, token: str) -> bool:
    try:
        return (directory.path / MARK).read_text(encoding="utf-8") == token
    except OSError:
        return False


def _perform_elsewhere(task: NetworkTask, actor: Any) -> None:
    import ray

    with tempfile.TemporaryDirectory(prefix="petechia-") as name:
        folder = Path(name)
        for path, content in ray.get(actor.files.remote(task.key)).items():
            write_bytes(_below(folder, path), content)
        sent: dict[str, int] = {}

        def send() -> None:
            paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
            new = {path: path.stat().st_mtime_ns for path in paths if sent.get(str(path)) != path.stat().st_mtime_ns}
            sent.update({str(path): changed for path, changed in new.items()})
            ray.get(actor.store.remote(task.key, {str(path.relative_to(folder)): path.read_bytes() for path in new}))

        perform(task, NetworkFiles(folder, folder / "scores"), UploadingProgress(actor, send))
        send()
