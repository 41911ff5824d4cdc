"""Real Ray: actors that die, and a cluster that loses a node in the middle of a search."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from prunerzero.errors import InputError
from prunerzero.evolution import runner as module
from prunerzero.evolution.executors import cluster as cluster_module
from prunerzero.evolution.executors.cluster import RayExecutor, check_reachable
from prunerzero.evolution.runner import search
from prunerzero.evolution.settings import Budget
from prunerzero.study import Study

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def run(model_directory, text, tmp_path):
    def start(candidates=16, **more):
        return search(
            model_directory,
            "50%",
            study=tmp_path / "s.db",
            budget=Budget(None, candidates),
            calibration=text,
            samples=4,
            sequence_length=32,
            executor="ray",
            **more,
        )

    return start


def sound(path, candidates):
    with Study.open(path) as study:
        assert study.check() == []
        assert study.counts()["pending"] == 0
        rows = study.candidates("evaluated")
        assert len({row.key for row in rows}) == len(rows)
        assert sum(study.counts().values()) == candidates
        return study.events("worker-lost")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_listens_is_refused_before_the_model_is_read(scheme, text):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(InputError, match=rf"ray cluster '{scheme}127.0.0.1:{port}': .*refused"):
        search("no/such model", "50%", study="s.db", calibration=text, executor="ray",
               ray_address=f"{scheme}127.0.0.1:{port}")  # fmt: skip


@pytest.mark.parametrize("address", ["", "here", "ray://", "host:", "host:123456", "http://a:1"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InputError, match=r"ray address '.*': is no address; give HOST:PORT"):
        check_reachable(address)


def test_the_cluster_that_was_joined_last_may_be_gone(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    check_reachable("auto")  # nothing is noted: Ray may look
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
    with pytest.raises(InputError, match=f"ray cluster '127.0.0.1:{port}': cannot be reached"):
        check_reachable("auto")
    with listening(b"\0\0\0\4" + bytes(5), port):
        check_reachable("auto")


@contextmanager
def listening(answer, port=0):
    """Somebody who answers whoever calls, and hangs up unless there is nothing to say."""
    with socket.create_server(("127.0.0.1", port)) as server:

        def serve():
            with suppress(OSError):
                caller, _ = server.accept()
                callers.append(caller)
                if answer is not None:
                    caller.recv(100)
                    caller.sendall(answer)
                    caller.close()

        callers = []
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        for caller in callers:
            caller.close()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", b""])
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_who_listens_may_not_be_ray(answer, scheme, monkeypatch):
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    with (
        listening(answer) as port,
        pytest.raises(InputError, match=rf"'{scheme}127.0.0.1:{port}': who listens there does not"),
    ):
        check_reachable(f"{scheme}127.0.0.1:{port}")


def test_who_listens_may_say_nothing(monkeypatch):
    monkeypatch.setattr(cluster_module, "PATIENCE", 0.2)
    with (
        listening(None) as port,
        pytest.raises(InputError, match=rf"'127.0.0.1:{port}': cannot be reached \(timed out\)"),
    ):
        check_reachable(f"127.0.0.1:{port}")


@pytest.mark.slow
def test_a_search_on_this_machine_goes_on_with_processes(run, tmp_path):
    assert run(candidates=12, workers=2).candidates == 12
    assert not ray.is_initialized()
    sound(tmp_path / "s.db", 12)


@pytest.mark.slow
def test_a_killed_actor_and_a_lost_node_lose_no_candidate(run, tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    opened, lost = [], []

    def watched(_, workers, address, own):
        opened.append(RayExecutor(workers, address, own=own))
        return opened[-1]

    monkeypatch.setattr(module, "open_executor", watched)

    def observe(status):
        if status.recent == 4:  # one of its actors is killed
            lost.append("actor")
            ray.kill(next(iter(opened[0]._actors.values())))
        if status.recent == 8:
            lost.append("node")
            cluster.remove_node(nodes[0], allow_graceful=False)
            cluster.add_node(num_cpus=1)

    try:
        result = run(candidates=24, workers=3, ray_address=cluster.address, observe=observe)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert lost == ["actor", "node"]
    assert result.candidates == 24
    sound(tmp_path / "s.db", 24)
    assert opened[0]._started > 3  # workers were replaced


@pytest.mark.slow
def test_more_workers_than_the_cluster_has_cores_for(run):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        with pytest.raises(InputError, match="workers 9: the cluster has cores for 1"):
            run(workers=9, ray_address=cluster.address)
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_search_that_is_stopped_says_how_to_go_on_and_leaves_nothing_running(
    model_directory, text, tmp_path, number
):
    """SIGINT goes to the whole group, as Ctrl-C does."""
    psutil = pytest.importorskip("psutil")
    study = tmp_path / "s.db"
    command = [
        sys.executable, "-m", "prunerzero", "search", model_directory, "--pattern", "50%",
        "--study", str(study), "--calibration", text, "--samples", "4", "--sequence-length", "32",
        "--candidates", "100000", "--executor", "ray", "--workers", "2",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ, start_new_session=True
    ) as process:
        while process.poll() is None and measured(study) < 4:  # the first is measured without Ray
            time.sleep(0.1)
        if process.poll() is not None:
            pytest.fail(process.stderr.read())
        started = psutil.Process(process.pid).children(recursive=True)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("prunerzero: interrupted, nothing is half-written")
    assert "Traceback" not in err
    assert started
    assert not psutil.wait_procs(started, timeout=30)[1]
    with Study.open(study) as opened:
        assert opened.check() == []


def measured(path):
    if not path.exists():
        return 0
    with Study.open(path) as study:
        return study.counts()["evaluated"]
