"""Slots: how many stages may compute with a model at once, and which GPUs each of them has."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Queue


class SlotPool:
    """What the stages of a flow share: the slots, and an end for everything that runs.

    A slot has GPUs if there are any; with more slots than GPUs, several share one.

    Args:
        slots: how many; by default as many as there are GPUs for, at least one.

    Attributes:
        is_stopped: whether `stop` was called.
    """

    def __init__(self, slots: int | None) -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # A shell makes its background jobs ignore SIGINT, and all that they start too.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        gpus = gpus_of_slots()
        self._free: Queue[str | None] = Queue()
        for i in range(slots or len(gpus) or 1):
            self._free.put(gpus[i % len(gpus)] if gpus else None)
        self._running: set[subprocess.Popen[bytes]] = set()
        self.is_stopped = False

    @contextmanager
    def slot(self, needed: bool) -> Iterator[dict[str, str]]:
        """Wait for a slot, if one is needed; what to add to the stage's environment."""
        if not needed:
            yield {}
            return
        gpus = self._free.get()
        try:
            yield {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus}
        finally:
            self._free.put(gpus)

    @contextmanager
    def process(
        self, command: list[str], environment: dict[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A process with its output in a pipe; `stop` reaches it and all that it starts."""
        with subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            self._running.add(process)
            if self.is_stopped:
                self.stop()
            yield process
        self._running.discard(process)

    def stop(self) -> None:
        """Interrupt what runs and what is yet to start, as Ctrl-C would: trainings can resume."""
        self.is_stopped = True
        for process in tuple(self._running):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)


def gpus_of_slots() -> list[str]:
    """`CUDA_VISIBLE_DEVICES` of each slot; no GPU is in two.

    A slot has one GPU, or as many as `TECHLOOP_DEVICES` gives to one training.
    """
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        gpus = [gpu for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]
    else:
        import torch

        gpus = [str(i) for i in range(torch.cuda.device_count())]
    devices = os.environ.get("TECHLOOP_DEVICES", "")
    n = max(1, int(devices)) if devices.isdecimal() else 1
    return [",".join(gpus[i : i + n]) for i in range(0, len(gpus) - n + 1, n)]
