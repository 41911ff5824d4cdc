"""Workers in processes of this machine, which share statistics and dense weights in memory."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import torch

from prunerzero.errors import InputError
from prunerzero.evolution.executors.base import Executor, usable_cores
from prunerzero.evolution.executors.own import Own, install, packed
from prunerzero.evolution.executors.parcel import Parcel, filled, pack
from prunerzero.evolution.executors.tasks import Answer, Lost, Task, Workplace
from prunerzero.files import cache_dir

READY = "ready"
PATIENCE = 5.0  # seconds that a worker is given to end
STARTING = "PRUNERZERO_WORKER_STARTS"  # in the environment of a worker until it works
SEARCHES_AT_ONCE = 77  # exit code
SEARCHES_AGAIN = (
    "they import this script, which begins the search again; put what it does under "
    "'if __name__ == \"__main__\":'"
)


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    busy: bool = False


class ProcessExecutor(Executor):
    """Workers that are processes of their own, each with its share of the cores.

    Args:
        workers: how many.
        threads: torch threads of each; by default the cores' share.
        own: operators and terminals of the user's own that they must know.

    Raises:
        InputError: they cannot come by one of these.
    """

    def __init__(self, workers: int, threads: int | None = None, own: Sequence[str] = ()) -> None:
        if os.environ.get(STARTING):  # a worker imports a script that searches as it is imported
            os._exit(SEARCHES_AT_ONCE)
        self._own = packed(own)
        self._count = workers
        self._threads = threads or max(1, usable_cores() // workers)
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[str, _Worker] = {}
        self._started = 0
        self._gpus = 0
        self._parcel: Parcel | None = None
        self._file: Any = None

    @property
    def processes(self) -> dict[str, int]:
        """Process ids by the workers' names."""
        pids = {name: worker.process.pid for name, worker in self._workers.items()}
        return {name: pid for name, pid in pids.items() if pid is not None}

    def start(self, workplace: Workplace) -> None:
        """See `Executor.start`.

        Raises:
            InputError: the model cannot travel to another process, or there is no room.
        """
        self._parcel, tensors = pack_workplace(workplace)
        if any(tensor.is_cuda for tensor in tensors):
            self._gpus = torch.cuda.device_count()
        try:
            # Without a name from the start, so that nothing is left whoever is killed.
            cache_dir().mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=cache_dir())  # noqa: SIM115  closed by `close`
            self._file.truncate(max(1, self._parcel.size))
            for start, content in filled(self._parcel, tensors):
                self._file.seek(start)
                self._file.write(content)
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"workers: {self._parcel.size >> 20} MiB for them cannot be written to "
                f"{cache_dir()} ({error.strerror})"
            ) from None
        for _ in range(self._count):
            self._hire()

    def idle(self) -> list[str]:
        """See `Executor.idle`."""
        return [name for name, one in self._workers.items() if one.ready and not one.busy]

    def submit(self, worker: str, task: Task) -> None:
        """See `Executor.submit`."""
        one = self._workers[worker]
        one.busy = True
        with suppress(OSError):  # it is gone, and its pipe's end is collected
            one.pipe.send(task)

    def collect(self, seconds: float) -> list[tuple[str, Answer | Lost]]:
        """See `Executor.collect`."""
        names = {worker.pipe: name for name, worker in self._workers.items()}
        found: list[tuple[str, Answer | Lost]] = []
        for pipe in wait(list(names), seconds):
            assert isinstance(pipe, Connection)
            name = names[pipe]
            worker = self._workers[name]
            try:
                answer = pipe.recv()
            # A worker that is killed may have sent half an answer.
            except (EOFError, OSError, pickle.UnpicklingError):
                reason = self._bury(name)
                if reason == SEARCHES_AGAIN:
                    raise InputError(f"workers: {reason}") from None
                if worker.busy:
                    found.append((name, Lost(reason)))
                if not worker.ready:
                    self._note_start(reason)
                self._hire()
                continue
            if isinstance(answer, InputError):
                raise answer
            if isinstance(answer, str):  # `READY`
                worker.ready = True
                self._note_start()
            else:
                worker.busy = False
                found.append((name, answer))
        return found

    def dismiss(self, worker: str) -> None:
        """See `Executor.dismiss`."""
        self._workers[worker].process.kill()
        self._bury(worker)
        self._hire()

    def close(self) -> None:
        """See `Executor.close`."""
        for worker in self._workers.values():
            worker.process.kill()  # it holds nothing that is worth saving
        for name in list(self._workers):
            self._bury(name)
        if self._file is not None:
            self._file.close()
            self._file = None

    def _hire(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve,
            args=(theirs, self._threads, self._started % self._gpus if self._gpus else None),
            name="prunerzero worker",
            daemon=True,
        )
        os.environ[STARTING] = "1"
        try:
            process.start()
        finally:
            del os.environ[STARTING]
        theirs.close()
        self._started += 1
        self._workers[f"process {self._started}"] = _Worker(process, ours)
        # The pipe takes it all only once the process reads, seconds from now.
        contents = (ours, process.pid, (self._own, self._parcel), self._file)
        threading.Thread(target=_equip, args=contents, daemon=True).start()

    def _bury(self, name: str) -> str:
        worker = self._workers.pop(name)
        worker.pipe.close()
        worker.process.join(PATIENCE)
        code = worker.process.exitcode
        if code == SEARCHES_AT_ONCE:
            return SEARCHES_AGAIN
        return f"ended by signal {-code}" if code and code < 0 else f"ended with exit code {code}"


def _equip(pipe: Connection, pid: int, needed: tuple[list[Own], Parcel], file: Any) -> None:
    # Whoever is gone meanwhile is noticed by `collect`.
    with suppress(OSError, ValueError):
        pipe.send(needed)
        send_handle(pipe, file.fileno(), pid)


def pack_workplace(workplace: Workplace) -> tuple[Parcel, list[torch.Tensor]]:
    """`pack` for a workplace.

    Raises:
        InputError: it holds something that cannot travel.
    """
    try:
        return pack(workplace)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise InputError(
            f"workers: this model cannot be sent to other processes ({error}); "
            "choose executor serial"
        ) from None


def _serve(pipe: Connection, threads: int, gpu: int | None) -> None:
    """The life of a worker: does tasks until its coordinator is gone."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)  # before CUDA is used for the first time
    os.environ.pop(STARTING, None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the group; the coordinator ends
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        own, parcel = pipe.recv()
        descriptor = recv_handle(pipe)
        try:
            install(own)
        except InputError as error:
            pipe.send(error)
            return
        # Pages are shared with the other workers until one writes to them.
        buffer = mmap.mmap(descriptor, max(1, parcel.size), access=mmap.ACCESS_COPY)
        os.close(descriptor)
        workplace: Workplace = parcel.open(buffer, writable=True)
        del parcel
        pipe.send(READY)
        while True:
            pipe.send(workplace.do(pipe.recv()))
    except (EOFError, OSError):
        os._exit(0)  # nobody is there to tell


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
