"""Workers that are Ray's actors, on this machine or on any of a cluster."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from prunerzero.errors import InputError, MissingExtraError
from prunerzero.evolution.executors.base import Executor, usable_cores
from prunerzero.evolution.executors.own import Own, install, packed
from prunerzero.evolution.executors.parcel import Parcel, filled
from prunerzero.evolution.executors.process import READY, pack_workplace
from prunerzero.evolution.executors.tasks import Answer, Lost, Task, Workplace

ROOM = 256 << 20  # bytes of a local object store, beside the parcel
ADDRESS = re.compile(r"(?:ray://)?\[?(?P<host>[^/\[\]]+)\]?:(?P<port>\d{1,5})")
PATIENCE = 5.0  # seconds for an answer from a cluster's address
# HTTP/2 (RFC 9113): a client's first bytes with its empty settings; bytes of a frame's header, the
# fourth of which is its type.
FRAME_HEADER, SETTINGS = 9, 4
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])


class RayExecutor(Executor):
    """Workers that are actors, each with a core or a GPU of its own.

    Args:
        workers: how many; None for as many as the cluster has cores (GPUs) for.
        address: of a cluster that runs; None starts one of this machine's cores, and ends it.
        threads: torch threads, and so cores, of each.
        own: operators and terminals of the user's own that they must know.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: nobody listens at the address.
    """

    def __init__(
        self,
        workers: int | None,
        address: str | None,
        threads: int = 1,
        own: Sequence[str] = (),
    ) -> None:
        if address is not None:
            check_reachable(address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise MissingExtraError("ray", "executor 'ray'") from None
        self._ray = ray
        self._own = packed(own, ray.cloudpickle.dumps)  # it knows functions of notebooks, too
        self._count = workers
        self._address = address
        self._threads = threads
        self._ours = False  # whether the cluster is ours to end
        self._actors: dict[str, Any] = {}
        self._tasks: dict[Any, str] = {}  # by the reference to what it will answer
        self._ready: set[str] = set()
        self._started = 0
        self._gpus = 0
        self._parcel: Any = None
        self._buffer: Any = None

    def start(self, workplace: Workplace) -> None:
        """See `Executor.start`.

        Raises:
            InputError: the cluster cannot be reached, or has no room; the model cannot travel.
        """
        parcel, tensors = pack_workplace(workplace)
        self._join(parcel.size)
        buffer = np.empty(max(1, parcel.size), np.uint8)
        for start, content in filled(parcel, tensors):
            buffer[start : start + len(content)] = content
        self._parcel, self._buffer = self._ray.put(parcel), self._ray.put(buffer)
        self._gpus = int(any(tensor.is_cuda for tensor in tensors))
        room = int(self._ray.cluster_resources().get("GPU" if self._gpus else "CPU", 0))
        count = self._count or max(1, room // (1 if self._gpus else self._threads))
        if count > room:
            raise InputError(
                f"workers {count}: the cluster has {'GPUs' if self._gpus else 'cores'} for {room}"
            )
        for _ in range(count):
            self._hire()

    def idle(self) -> list[str]:
        """See `Executor.idle`."""
        busy = set(self._tasks.values())
        return [name for name in self._actors if name in self._ready and name not in busy]

    def submit(self, worker: str, task: Task) -> None:
        """See `Executor.submit`."""
        self._tasks[self._actors[worker].do.remote(task)] = worker

    def collect(self, seconds: float) -> list[tuple[str, Answer | Lost]]:
        """See `Executor.collect`."""
        found: list[tuple[str, Answer | Lost]] = []
        if not self._tasks:
            return found
        done, rest = self._ray.wait(list(self._tasks), num_returns=1, timeout=seconds)
        if rest:  # and whatever else has ended by now
            done += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        for reference in done:
            worker = self._tasks.pop(reference)
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                if worker in self._ready:
                    found.append((worker, Lost(_reason(error))))
                else:
                    self._note_start(_reason(error))
                self._replace(worker)
                continue
            if isinstance(answer, InputError):
                raise answer
            if isinstance(answer, str):  # `READY`
                self._ready.add(worker)
                self._note_start()
            else:
                found.append((worker, answer))
        return found

    def dismiss(self, worker: str) -> None:
        """See `Executor.dismiss`."""
        self._tasks = {one: name for one, name in self._tasks.items() if name != worker}
        self._replace(worker)

    def close(self) -> None:
        """See `Executor.close`."""
        for actor in self._actors.values():
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(actor)
        self._actors.clear()
        self._tasks.clear()
        self._parcel = self._buffer = None
        if self._ours:
            self._ray.shutdown()
            self._ours = False

    def _join(self, size: int) -> None:
        if self._ray.is_initialized():  # by whoever calls us; theirs to end
            return
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            with _signals_kept():
                if self._address is not None:
                    self._ray.init(address=self._address, **quiet)
                else:
                    self._ray.init(
                        address="local",
                        num_cpus=max(usable_cores(), self._count or 1),
                        include_dashboard=False,
                        object_store_memory=size + ROOM,
                        **quiet,
                    )
        except Exception as error:  # of any kind: Ray raises bare ones, too
            where = f"'{self._address}'" if self._address else "of this machine"
            raise InputError(
                f"ray cluster {where}: cannot be reached ({' '.join(str(error).split())[:300]})"
            ) from None
        self._ours = True

    def _hire(self) -> None:
        self._started += 1
        name = f"ray {self._started}"
        resources = {"num_cpus": self._threads, "num_gpus": self._gpus, "max_restarts": 0}
        actor = self._ray.remote(**resources)(_Actor)
        # Both arrive as what they refer to, once on every machine.
        self._actors[name] = actor.remote(self._own, self._parcel, self._buffer, self._threads)
        self._tasks[self._actors[name].ready.remote()] = name

    def _replace(self, worker: str) -> None:
        self._ready.discard(worker)
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actors.pop(worker))
        self._hire()


class _Actor:
    """A worker, in a process of Ray's."""

    def __init__(self, own: list[Own], parcel: Parcel, buffer: np.ndarray, threads: int) -> None:
        import torch

        self._error: InputError | None = None
        try:
            install(own)
        except InputError as error:
            self._error = error
            return
        torch.set_num_threads(threads)
        with warnings.catch_warnings():  # torch has no tensors that cannot be written to
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            workplace: Workplace = parcel.open(buffer, writable=False)
        self._workplace = workplace

    def ready(self) -> str | InputError:
        """Answers once it can work, or with the reason why it cannot."""
        return self._error or READY

    def do(self, task: Task) -> Answer:
        """See `Workplace.do`."""
        return self._workplace.do(task)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and would end the process without a word."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def check_reachable(address: str) -> None:
    """Whether a cluster may be at an address; Ray itself would try for minutes.

    Somebody has to listen there and to speak HTTP/2 as Ray does (gRPC): a server of another kind,
    or a cluster that is stuck, says nothing or something else.

    Args:
        address: ``HOST:PORT``, ``ray://HOST:PORT``, or ``auto`` for the cluster that this machine
            joined last.

    Raises:
        InputError: it is no address, or there is none.
    """
    place = address
    if address == "auto":
        place = os.environ.get("RAY_ADDRESS") or _joined_last() or "auto"
    if place == "auto":
        return  # Ray looks for processes of its own on this machine, and gives up at once
    found = ADDRESS.fullmatch(place)
    if found is None:
        raise InputError(
            f"ray address '{place}': is no address; give HOST:PORT, ray://HOST:PORT or auto"
        )
    try:
        with socket.create_connection((found["host"], int(found["port"])), PATIENCE) as there:
            greeted = os.environ.get("RAY_USE_TLS") == "1" or _greets(there)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"ray cluster '{place}': cannot be reached ({getattr(error, 'strerror', 0) or error}); "
            "is it running ('ray status' there), and is that its address?"
        ) from None
    if not greeted:
        raise InputError(
            f"ray cluster '{place}': who listens there does not answer as Ray does; "
            "is that its address ('ray status' there)?"
        )


def _greets(there: socket.socket) -> bool:
    """Whether the other end begins as an HTTP/2 server must, with its settings."""
    there.sendall(GREETING)
    answer = there.makefile("rb").read(FRAME_HEADER)
    return len(answer) == FRAME_HEADER and answer[3] == SETTINGS


def _joined_last() -> str | None:
    """What `ray start` noted on this machine."""
    folder = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray"
    with suppress(OSError, ValueError):
        return (folder / "ray_current_cluster").read_text().strip() or None
    return None


def _reason(error: BaseException) -> str:
    lines = [line for line in str(error).split("\n") if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()[:200] if lines else ''}"
