"""Files opened by threads ahead of the work, and never more than a few batches ahead.

While a model works on one batch, the files of the next are read and decoded. What is loaded
and how is the caller's affair; a loader reports failures in what it returns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Loaded = TypeVar("Loaded")


def loaded_ahead(
    batches: Iterable[Sequence[str]], load: Callable[[str], Loaded], *, threads: int, ahead: int = 1
) -> Iterator[dict[str, Loaded]]:
    """For each batch of URIs what `load` made of them, each distinct URI of a batch once.

    At most `ahead` batches beyond the one handed out are loaded or being loaded, which
    bounds the memory. An error that `load` raises is raised here, at its batch.
    """
    todo = iter(batches)
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        coming: deque[dict[str, Future[Loaded]]] = deque()
        exhausted = False
        try:
            while True:
                while not exhausted and len(coming) <= ahead:
                    batch = next(todo, None)
                    if batch is None:
                        exhausted = True
                    else:
                        coming.append({uri: pool.submit(load, uri) for uri in dict.fromkeys(batch)})
                if not coming:
                    return
                yield {uri: future.result() for uri, future in coming.popleft().items()}
        finally:
            for futures in coming:
                for future in futures.values():
                    future.cancel()
