"""Start, communication and end of several processes, on one host or on many.

Every process runs the same program on its own devices. Process 0 makes every decision that depends
on files, clocks or signals; only process 0 writes files and prints. Messages use the coordination
service of `jax.distributed`, a key-value store in process 0, not the devices: over loopback a
message costs no more than a collective (`benchmarks/agreement.py`,
`benchmarks/results/agreement.json`), and it needs no compiled program and no slot in the devices'
queue.

In a single process every function returns at once, without communication.
"""

import contextlib
import json
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
from jax._src.distributed import global_state

from cv_jax import signals
from cv_jax.devices import coordination
from cv_jax.devices.clusters import START_SECONDS, Cluster
from cv_jax.errors import InputError, one_line, printable
from cv_jax.signals import end_at_once

FAREWELL_SECONDS = 5  # process 0 stays alive for so long after an error, to send the message
EXIT_SECONDS = 0.5  # a process that has acknowledged the end needs less to exit
FOREVER_MS = 7 * 24 * 3600 * 1000  # a missing heartbeat reports a dead process much earlier
EXCHANGE_SECONDS = 0.2
ANSWER_SECONDS = 3  # a host that is gone does not refuse a connection

_messages = 0  # number of keys used; equal in all processes
_leaving = threading.Lock()  # held by the thread that ends this process


def start(cluster: Cluster | None, heartbeat_seconds: int) -> None:
    """Connect to the other processes, and silence all processes except process 0.

    Args:
      cluster: the processes; `None` for a single process.
      heartbeat_seconds: a process without a heartbeat for so long counts as dead.

    Raises:
      InputError: process 0 cannot listen at the address, or JAX rejects the arguments.
    """
    if cluster is None:
        return
    # JAX's preemption service would catch SIGTERM; `Agreement` handles all signals.
    jax.config.update("jax_enable_preemption_service", False)
    if jax.config.jax_cpu_collectives_implementation is None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")

    def give_up():
        print(
            f"error: process {cluster.index} of {cluster.count} could not connect to all others at "
            f"{printable(cluster.coordinator)} within {START_SECONDS} s",
            file=sys.stderr,
        )
        end_at_once(1)

    # JAX's own timeout ends the process with a C++ stack trace.
    timer = threading.Timer(START_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    try:
        with coordination.on_loss(_lost_service):
            jax.distributed.initialize(
                cluster.coordinator,
                cluster.count,
                cluster.index,
                local_device_ids=cluster.local_devices,
                cluster_detection_method="deactivate",
                initialization_timeout=2 * START_SECONDS,
                heartbeat_timeout_seconds=heartbeat_seconds,
            )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"cannot connect processes at {cluster.coordinator}: {one_line(error, 300)}"
        ) from None
    timer.cancel()
    _watcher.start()
    signals.act_by(lambda number: fail(128 + number, signals.text(number)))
    if not is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        logging.getLogger().setLevel(logging.ERROR)


def several() -> bool:
    """Whether the run has several processes."""
    return global_state.client is not None


def is_main() -> bool:
    """Whether this is process 0, which writes files and prints."""
    return global_state.process_id == 0


def agreed(value: Any) -> Any:
    """Return the value of process 0 in all processes; it must be JSON-serialisable."""
    if not several():
        return value
    key = _next_key()
    if is_main():
        global_state.client.key_value_set(key, json.dumps(value))
        return value
    return json.loads(global_state.client.blocking_key_value_get(key, FOREVER_MS))


def decided(decide: Callable[[], Any]) -> Any:
    """Call `decide()` in process 0 only, and return its result in all processes.

    If it raises, process 0 ends all processes; see `fail`.
    """
    return agreed(decide() if is_main() else None)


def gathered(value: Any) -> list[Any]:
    """Return the values of all processes, in process order; they must be JSON-serialisable."""
    if not several():
        return [value]
    key = _next_key()
    global_state.client.key_value_set(f"{key}/{global_state.process_id}", json.dumps(value))
    barrier()
    pairs = global_state.client.key_value_dir_get(f"{key}/")
    values = {int(name.rpartition("/")[2]): json.loads(text) for name, text in pairs}
    return [values[i] for i in range(global_state.num_processes)]


def barrier() -> None:
    """Wait until all processes reach this call."""
    if several():
        global_state.client.wait_at_barrier("cv_jax", FOREVER_MS)


def require_same(what: str, values: dict[str, Any]) -> None:
    """Check that all processes have the values of process 0.

    Args:
      what: subject of the error message.
      values: name → JSON-serialisable value.

    Raises:
      InputError: a value differs from the value in process 0.
    """
    values = json.loads(json.dumps(values))
    main = agreed(values)
    differing = [name for name in {**main, **values} if main.get(name) != values.get(name)]
    if differing:
        pairs = [f"{name}={values.get(name)!r}, not {main.get(name)!r}" for name in differing]
        raise InputError(
            f"{what} of process {global_state.process_id} differs from that of process 0: "
            f"{'; '.join(pairs)[:500]}"
        )
    barrier()  # no process writes a file before all have passed the check


class Agreement:
    """Stops and timed saves at the same step in all processes.

    Processes report signals at agreed steps; process 0 broadcasts whether to stop or save after
    this step, and the step of the next exchange. An exchange takes place about every
    `EXCHANGE_SECONDS`, so its cost is negligible for short steps too. A process asks after it has
    dispatched its step, so the devices compute while it waits.
    """

    def __init__(self, step: int, own: Callable[[], int | None]):
        """
        Args:
          step: updates made.
          own: returns the signal that this process has received, if any.
        """
        self._step, self._time, self._next = step, time.monotonic(), step + 1
        self._own, self._agreed, self._reported = own, None, False
        self._name, self._answers = _next_key(), []

    @property
    def signal(self) -> int | None:
        """The signal that stops the run, if any."""
        return self._agreed if several() else self._own()

    def reach(self, step: int, timed: bool) -> bool:
        """Exchange signals and save times after a step, and update `signal`.

        Args:
          step: updates made.
          timed: whether a timed save is due by the clock of this process.

        Returns:
          Whether a timed save is due by the clock of process 0.
        """
        if not several():
            return timed
        client = global_state.client
        if self._own() and not self._reported:
            self._reported = True
            client.key_value_set(
                f"{self._name}/signal/{global_state.process_id}", str(int(self._own()))
            )
        if step < self._next:
            return False
        key = f"{self._name}/step/{step}"
        if is_main():
            signals = [int(text) for _, text in client.key_value_dir_get(f"{self._name}/signal/")]
            now = time.monotonic()
            made = step - self._step
            steps = int(EXCHANGE_SECONDS * made / max(now - self._time, 1e-9))
            # At most twice as many steps as before: the first steps include compilation.
            answer = [signals[0] if signals else None, timed, step + min(max(steps, 1), 2 * made)]
            client.key_value_set(key, json.dumps(answer))
            self._step, self._time = step, now
            self._answers.append(key)
            if len(self._answers) > 8:  # steps are collective: no process is so far behind
                client.key_value_delete(self._answers.pop(0))
        else:
            answer = json.loads(client.blocking_key_value_get(key, FOREVER_MS))
        self._agreed, timed, self._next = answer
        return timed


def finish(code: int) -> int:
    """Wait for all processes, and return the exit code of process 0 in all of them."""
    code = agreed(code)
    if several():
        if is_main():
            global_state.client.key_value_set("cv_jax/end", json.dumps(None))
        _watcher.join()
    return code


def fail(code: int, message: str) -> int:
    """Print an error; with several processes, end all of them with this error.

    Args:
      code: exit code.
      message: one line.

    Returns:
      The code, in a single process.
    """
    with _leaving:
        print(f"error: {printable(message)}", file=sys.stderr, flush=True)
        if not several():
            return code
        # Another process may have set the key before, or process 0 has ended.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            end = json.dumps([global_state.process_id, code, message])
            global_state.client.key_value_set("cv_jax/end", end)
        _farewell()
        return end_at_once(code)


def lost(error: Exception) -> str | None:
    """Return an error message if the error is caused by the loss of another process."""
    if not several() or not re.search(
        r"Gloo|NCCL|UNAVAILABLE|ABORTED|CANCELLED|coordination", str(error)
    ):
        return None
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        global_state.client.key_value_try_get("cv_jax/end")
        time.sleep(FAREWELL_SECONDS)  # `_watch` ends this process with the other's message
    return f"{_which_is_lost()}; {_ADVICE} ({one_line(error, 200)})"


_ADVICE = "start all processes again to continue"


def _which_is_lost() -> str:
    """Say which process is lost, by a connection to process 0, whose service greets at once."""
    host, _, port = global_state.coordinator_address.rpartition(":")
    address = host.strip("[]"), int(port)
    try:
        with socket.create_connection(address, timeout=ANSWER_SECONDS) as connection:
            answer = connection.recv(1)
    except TimeoutError:
        return "process 0 of this run does not answer"
    except OSError:
        answer = b""
    return f"{'another process' if answer else 'process 0'} of this run has ended"


def _lost_service() -> None:
    """End this process: process 0 is lost, or its service reports another process as dead."""
    which = _which_is_lost()
    if _leaving.acquire(timeout=FAREWELL_SECONDS + 1):  # else the holder has printed its line
        print(f"error: {which}; {_ADVICE}", file=sys.stderr, flush=True)
    end_at_once(1)


def _watch() -> None:
    """End this process when another process reports an error."""
    try:
        end = json.loads(global_state.client.blocking_key_value_get("cv_jax/end", FOREVER_MS))
    except jax.errors.JaxRuntimeError:
        return  # process 0 has ended; JAX reports this
    if end is not None and end[0] != global_state.process_id:
        index, code, message = end
        with _leaving:
            text = printable(f"process {index}: {message}")
            print(f"error: {text}", file=sys.stderr, flush=True)
            _farewell()
            end_at_once(code)


_watcher = threading.Thread(target=_watch, daemon=True)


def _farewell() -> None:
    """Acknowledge the end; process 0, which serves the messages, waits for all processes."""
    client, end = global_state.client, time.monotonic() + FAREWELL_SECONDS
    try:
        client.key_value_set(f"cv_jax/ended/{global_state.process_id}", "", allow_overwrite=True)
        while is_main() and time.monotonic() < end:
            if len(client.key_value_dir_get("cv_jax/ended/")) == global_state.num_processes:
                time.sleep(EXIT_SECONDS)  # JAX prints an error if process 0 exits before another
                break
            time.sleep(0.05)
    except jax.errors.JaxRuntimeError:
        pass  # process 0 has ended


def _next_key() -> str:
    global _messages
    _messages += 1
    return f"cv_jax/{_messages}"
