"""The figures of a project with many volumes: rates, and how long lists take by every key."""

import statistics
import threading
import time

from .control_plane import Side
from .rest import Cloud, Rest

CREATORS = 8
SORT_KEYS = [
    "created_at", "updated_at", "name", "status", "size", "id", "bootable", "host", "volume_type_id",
    "availability_zone", "attach_status", "user_id", "project_id",
]
# What matches nothing has to look at everything, unless an index knows better.
FILTERS = [
    "name=nothing", "name=volume-42", "name~=nothing", "status=available", "status=error", "metadata={'number':'42'}",
    "metadata={'a':'b'}", "bootable=true", "migration_status=starting", "availability_zone=nowhere",
    "group_id=11111111-1111-4111-8111-111111111111", "size=2", "consumes_quota=false",
    "created_at=lt:2000-01-01T00:00:00", "updated_at=lt:2000-01-01T00:00:00",
]


def create_many(cloud: Cloud, count: int) -> tuple[float, float]:
    """Makes the volumes with several clients; returns how many were answered, and ready, a second."""
    numbers = iter(range(count))
    lock = threading.Lock()
    failures: list[str] = []

    def create() -> None:
        rest = cloud.volume()
        while True:
            with lock:
                number = next(numbers, None)
            if number is None or failures:
                return
            volume = {"size": 1, "name": f"volume-{number}", "metadata": {"number": str(number)}}
            try:
                rest.ok("POST", "/volumes", {"volume": volume})
            except Exception as error:
                failures.append(str(error))

    began = time.perf_counter()
    threads = [threading.Thread(target=create) for _ in range(CREATORS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    answered = count / (time.perf_counter() - began)
    path = "/volumes?status=creating&limit=1"
    cloud.volume().until(path, lambda answer: answer.body == {"volumes": []}, timeout_s=600, pause_s=0.05)
    return answered, count / (time.perf_counter() - began)


def milliseconds(rest: Rest, path: str, times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        rest.ok("GET", path)
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


def measure(cloud: Cloud, count: int, short: bool) -> dict[str, float]:
    """Every figure of one cloud whose project is empty; the volumes stay."""
    side = Side("basalt", cloud)
    rest = side.rest
    times = 3 if short else 15
    figures = {}
    answered, ready = create_many(cloud, count)
    figures["volumes created (202) by 8 clients, per s"] = answered
    figures["volumes created and available, per s"] = ready
    volumes = rest.ok("GET", "/volumes?limit=1000")["volumes"]
    middle = volumes[len(volumes) // 2]["id"]
    page = min(1000, count)
    figures[f"detail list of {page}, ms"] = milliseconds(rest, f"/volumes/detail?limit={page}", times)
    far = rest.ok("GET", f"/volumes?sort=created_at:asc&limit={page}")["volumes"][-1]["id"]
    path = f"/volumes/detail?limit={page}&marker={far}"
    figures[f"detail list of {page}, the last page, ms"] = milliseconds(rest, path, times)
    figures[f"list of {page}, ms"] = milliseconds(rest, f"/volumes?limit={page}", times)
    figures["detail list of 1000, with_count, ms"] = milliseconds(
        rest, f"/volumes/detail?limit={page}&with_count=true", times
    )
    figures["limits, ms"] = milliseconds(rest, "/limits", times)
    figures["summary, ms"] = milliseconds(rest, "/volumes/summary", times)
    for connections in (1, 8):
        rate = side.reads_per_second(f"/volumes/{middle}", connections, 1 if short else 5)
        figures[f"GET one volume, {connections} connections, per s"] = rate
    for key in SORT_KEYS:
        for direction in ("asc", "desc"):
            path = f"/volumes/detail?limit=100&sort={key}:{direction}"
            figures[f"detail list of 100 by {key}:{direction}, ms"] = milliseconds(rest, path, times)
    for wanted in FILTERS:
        quoted = wanted.replace("'", "%27").replace("{", "%7B").replace("}", "%7D")
        figures[f"detail list of 100 where {wanted}, ms"] = milliseconds(rest, f"/volumes/detail?limit=100&{quoted}", times)
    return figures
