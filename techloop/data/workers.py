"""Parts of a dataset, made in this process or by Dask's workers."""

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

from tqdm import tqdm

from techloop.audio.recording import Rejection
from techloop.data.parts import Chunk, make_part, reject_part
from techloop.data.source import Source
from techloop.grid import Grid
from techloop.preparation_config import PreparationConfig

TASKS_AHEAD = 8  # tasks per worker that are handed out before the first is done
DASK = {
    # No task waits at a worker behind another: it would be blamed if that one killed the worker.
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.allowed-failures": 1,  # a task that killed two workers is to blame
    # One thread each. Freed memory of arrays is reused: by default it goes back to the system each
    # time, which takes a third of the time.
    "distributed.nanny.pre-spawn-environ": {
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), 1),
        "MALLOC_TRIM_THRESHOLD_": 2**28,
        "MALLOC_MMAP_THRESHOLD_": 2**25,  # the most that glibc takes
    },
}


def make_parts(
    source: Source,
    chunks: Sequence[Chunk],
    grid: Grid,
    config: PreparationConfig,
    workers: int | None,
) -> None:
    """Make every part that is not there yet, and show progress.

    Args:
        source: what to read.
        chunks: all items of the source.
        grid: where loops shall lie.
        config: what turns a recording into loops.
        workers: as in `prepare_loops`.

    Raises:
        ValueError: `TECHLOOP_WORKERS` is not a number.
    """
    missing = [chunk for chunk in chunks if not chunk.is_done()]
    items, left = (sum(len(chunk.items) for chunk in some) for some in (chunks, missing))
    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    workers = min(_number_of_workers() if workers is None else workers, len(missing))
    if not missing or (workers <= 1 and not address):
        done = _make_here(source, missing, grid, config)
    else:
        done = _make_by_dask(source, missing, grid, config, address, workers)
    with tqdm(total=items, initial=items - left, desc="prepare", unit="item", disable=None) as bar:
        for chunk in done:
            bar.update(len(chunk.items))


def _number_of_workers() -> int:
    """`TECHLOOP_WORKERS`, else one per CPU."""
    setting = os.environ.get("TECHLOOP_WORKERS") or str(os.cpu_count() or 1)
    if not setting.isdecimal():
        raise ValueError(f"TECHLOOP_WORKERS is {setting!r}, which is not a number of processes")
    return int(setting)


def _make_here(
    source: Source, chunks: Iterable[Chunk], grid: Grid, config: PreparationConfig
) -> Iterator[Chunk]:
    """Make parts in this process; yields each chunk once it is done."""
    for chunk in chunks:
        make_part(source, chunk, grid, config)
        yield chunk


def _make_by_dask(
    source: Source,
    chunks: Sequence[Chunk],
    grid: Grid,
    config: PreparationConfig,
    address: str | None,
    workers: int,
) -> Iterator[Chunk]:
    """Make parts by Dask; yields each chunk once it is done, or each of its items.

    A chunk that kills its workers is taken apart; an item that kills them is rejected.

    Args:
        source: what to read; it is sent with each task.
        chunks: what to make.
        grid: where loops shall lie.
        config: what turns a recording into loops.
        address: of a cluster's scheduler; None: processes of this machine.
        workers: how many of these.
    """
    import dask
    from distributed import Client, KilledWorker, LocalCluster, as_completed

    with ExitStack() as stack:
        stack.enter_context(dask.config.set(DASK))
        cluster = address or stack.enter_context(
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=0,  # a chunk is small; a limit would stop workers that could continue
                dashboard_address=None,
                # Another run may have the usual port, and other machines must not see this one.
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                silence_logs=logging.CRITICAL,
            )
        )
        client = stack.enter_context(Client(cluster))
        waiting, running = iter(chunks), {}
        ended = as_completed()

        def submit(some: Iterable[Chunk]) -> None:
            for chunk in some:
                future = client.submit(make_part, source, chunk, grid, config, pure=False)
                running[future] = chunk
                ended.add(future)

        submit(itertools.islice(waiting, TASKS_AHEAD * max(sum(client.nthreads().values()), 1)))
        for future in ended:
            chunk, error = running.pop(future), future.exception()
            submit(itertools.islice(waiting, 1))
            if isinstance(error, KilledWorker):  # by a decoder that crashes, for example
                if len(chunk.items) > 1:
                    submit(chunk.single_items())
                    continue
                detail = "the process that worked on it died, each time"
                reject_part(chunk, Rejection("failed", detail), grid)
            elif error is not None:
                raise error
            yield chunk
