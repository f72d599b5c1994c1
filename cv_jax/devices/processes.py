"""Several processes, on one host or on many: their start, what they agree on, and their end.

Every process runs the same program on its own devices. What must be the same on all of them but
depends on files, clocks or signals is decided by process 0, which alone writes files and speaks.
The words go through the coordination service of `jax.distributed`, a key-value store in process 0,
and not through the devices: over loopback a word costs no more than a collective
(`benchmarks/agreement.py`, `benchmarks/results/agreement.json`), and it takes neither a program of
its own nor a place in the devices' queue.

A plain single process needs none of this: each function then does what its name says at once.
"""

import contextlib
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import psutil
from jax._src.distributed import global_state

from cv_jax.devices.clusters import START_SECONDS, Cluster
from cv_jax.errors import InputError

FAREWELL_SECONDS = 5  # for which process 0 stays to tell the others why the run ended
FOREVER_MS = 7 * 24 * 3600 * 1000  # a process that died is noticed by its heartbeat long before
EXCHANGE_SECONDS = 0.2

_messages = 0  # sent by `agreed` and `gathered`: all processes count alike
_leaving = threading.Lock()  # taken by the thread that ends this process


def start(cluster: Cluster | None, heartbeat_seconds: int) -> None:
    """Joins the other processes, if there are any; from then on only process 0 prints and logs.

    Args:
      cluster: the processes; none is a plain single one.
      heartbeat_seconds: a process that was silent for so long is taken for dead.

    Raises:
      InputError: process 0 cannot listen there, or the time is not positive.
    """
    if cluster is None:
        return
    # Its handler would swallow SIGTERM; `Agreement` does its work, for other signals as well.
    jax.config.update("jax_enable_preemption_service", False)
    if jax.config.jax_cpu_collectives_implementation is None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")

    def give_up():
        print(
            f"error: process {cluster.index} of {cluster.count} did not meet all others at "
            f"{cluster.coordinator} within {START_SECONDS} s",
            file=sys.stderr,
        )
        end_at_once(1)

    # JAX would end the process with a stack trace of its own.
    timer = threading.Timer(START_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    try:
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
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"no start at {cluster.coordinator}: {reason}") from None
    timer.cancel()
    _watcher.start()
    if not is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        logging.getLogger().setLevel(logging.ERROR)


def several() -> bool:
    """Whether this process is one of several."""
    return global_state.client is not None


def is_main() -> bool:
    """Whether this process is the one that writes and speaks."""
    return global_state.process_id == 0


def agreed(value: Any) -> Any:
    """The value of process 0, on all processes; it is JSON-able."""
    if not several():
        return value
    key = _next_key()
    if is_main():
        global_state.client.key_value_set(key, json.dumps(value))
        return value
    return json.loads(global_state.client.blocking_key_value_get(key, FOREVER_MS))


def decided(decide: Callable[[], Any]) -> Any:
    """What `decide()` returned on process 0, on all processes; it is called there only.

    If it raises, process 0 ends the run for all; see `fail`.
    """
    return agreed(decide() if is_main() else None)


def gathered(value: Any) -> list[Any]:
    """The value of each process, in their order, on all processes; values are JSON-able."""
    if not several():
        return [value]
    key = _next_key()
    global_state.client.key_value_set(f"{key}/{global_state.process_id}", json.dumps(value))
    barrier()
    pairs = global_state.client.key_value_dir_get(f"{key}/")
    values = {int(name.rpartition("/")[2]): json.loads(text) for name, text in pairs}
    return [values[i] for i in range(global_state.num_processes)]


def barrier() -> None:
    """Returns when all processes have come here, however long that takes."""
    if several():
        global_state.client.wait_at_barrier("cv_jax", FOREVER_MS)


def require_same(what: str, values: dict[str, Any]) -> None:
    """Makes sure that all processes have the values of process 0.

    Args:
      what: names them in the message.
      values: name → value, JSON-able.

    Raises:
      InputError: a value of this process is another.
    """
    values = json.loads(json.dumps(values))
    main = agreed(values)
    other = [name for name in {**main, **values} if main.get(name) != values.get(name)]
    if other:
        pairs = [f"{name}={values.get(name)!r}, not {main.get(name)!r}" for name in other]
        raise InputError(
            f"{what} of process {global_state.process_id} differs from that of process 0: "
            f"{'; '.join(pairs)[:500]}"
        )
    barrier()  # nobody goes on to write before all have agreed


class Agreement:
    """Stops and timed saves, which come from signals and a clock, at the same step everywhere.

    Processes exchange a word at certain steps: each tells of a signal that it got, and process 0
    answers all with what happens after this step and after how many steps the next exchange is:
    so many that it comes about every `EXCHANGE_SECONDS` and costs next to nothing, also where steps
    are short. A process asks with its step already on its way to the devices, so that they work
    while it waits.
    """

    def __init__(self, step: int, own: Callable[[], int | None]):
        """
        Args:
          step: updates made.
          own: tells the signal that this process got, if any.
        """
        self._step, self._time, self._next = step, time.monotonic(), step + 1
        self._own, self._agreed, self._told = own, None, False
        self._name, self._answers = _next_key(), []

    @property
    def signal(self) -> int | None:
        """The signal that the run stops for, if any."""
        return self._agreed if several() else self._own()

    def reach(self, step: int, timed: bool) -> bool:
        """Is told of each step, and may set `signal`.

        Args:
          step: updates made.
          timed: whether it is time to save, by the clock of this process.

        Returns:
          Whether to save now, by the clock of process 0.
        """
        if not several():
            return timed
        client = global_state.client
        if self._own() and not self._told:
            self._told = True
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
            # At most twice as many as last time: the first steps, which compile, tell little.
            answer = [signals[0] if signals else None, timed, step + min(max(steps, 1), 2 * made)]
            client.key_value_set(key, json.dumps(answer))
            self._step, self._time = step, now
            self._answers.append(key)
            if len(self._answers) > 8:  # steps are collective: nobody is so far behind
                client.key_value_delete(self._answers.pop(0))
        else:
            answer = json.loads(client.blocking_key_value_get(key, FOREVER_MS))
        self._agreed, timed, self._next = answer
        return timed


def finish(code: int) -> int:
    """The orderly end: the exit code of process 0, on all processes, when all have come here."""
    code = agreed(code)
    if several():
        if is_main():
            global_state.client.key_value_set("cv_jax/end", json.dumps(None))
        _watcher.join()
    return code


def fail(code: int, message: str) -> int:
    """Prints why the run ends; of several processes, ends this and all others with that line.

    Args:
      code: exit code.
      message: one line.

    Returns:
      The code, in a plain single process.
    """
    with _leaving:
        print(f"error: {message}", file=sys.stderr, flush=True)
        if not several():
            return code
        # Another may have been first, or process 0 is gone.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            word = json.dumps([global_state.process_id, code, message])
            global_state.client.key_value_set("cv_jax/end", word)
        _farewell()
        return end_at_once(code)


def lost(error: Exception) -> str | None:
    """A line if the error says that another process is gone, else none."""
    text = " ".join(str(error).split())
    if not several() or not re.search(
        r"Gloo|NCCL|UNAVAILABLE|ABORTED|CANCELLED|coordination", text
    ):
        return None
    try:
        global_state.client.key_value_try_get("cv_jax/end")
        time.sleep(FAREWELL_SECONDS)  # it left a last word, with which `_watch` ends this process
    except jax.errors.JaxRuntimeError:
        pass
    return f"another process of this run is gone; start all again to go on ({text[:200]})"


def _watch() -> None:
    """Ends this process when another tells why the run ends."""
    try:
        word = json.loads(global_state.client.blocking_key_value_get("cv_jax/end", FOREVER_MS))
    except jax.errors.JaxRuntimeError:
        return  # process 0 is gone, which JAX tells of itself
    if word is not None and word[0] != global_state.process_id:
        index, code, message = word
        with _leaving:
            print(f"error: process {index}: {message}", file=sys.stderr, flush=True)
            _farewell()
            end_at_once(code)


_watcher = threading.Thread(target=_watch, daemon=True)


def _farewell() -> None:
    """Says that this process knows of the end; process 0, who keeps the words, waits for all."""
    client, end = global_state.client, time.monotonic() + FAREWELL_SECONDS
    try:
        client.key_value_set(f"cv_jax/ended/{global_state.process_id}", "", allow_overwrite=True)
        while is_main() and time.monotonic() < end:
            if len(client.key_value_dir_get("cv_jax/ended/")) == global_state.num_processes:
                break
            time.sleep(0.05)
    except jax.errors.JaxRuntimeError:
        pass  # process 0 is gone


def end_at_once(code: int) -> NoReturn:
    """Ends this process and its children, without waiting for anything."""
    sys.stdout.flush()
    sys.stderr.flush()
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(code)


def _next_key() -> str:
    global _messages
    _messages += 1
    return f"cv_jax/{_messages}"
