"""Compares what was told in the logs of all nodes with the flows that ended."""

import json
import time
from pathlib import Path

# Brokers may have to come back first.
DELIVERY_TIMEOUT_S = 60
# Kind of flow -> event of its end, and the member of the payload that names the resource.
EVENTS = {
    f"{resource}:{verb}": (f"{resource}.{verb}.end", f"{resource}_id")
    for resource in ("volume", "snapshot", "backup")
    for verb in ("create", "delete")
}


def told(logs: list[Path]) -> dict[str, set[str]]:
    """The resources that each event was told of, at least once."""
    found: dict[str, set[str]] = {event: set() for event, _ in EVENTS.values()}
    members = dict(EVENTS.values())
    for log in logs:
        for line in log.read_text(errors="replace").splitlines():
            if '"notification"' not in line:
                continue
            fields = json.loads(line)["fields"]
            event = fields["event_type"]
            if event in found:
                found[event].add(json.loads(fields["payload"])[members[event]])
    return found


def audit_notifications(server) -> int:
    """Every operation that ended well was told, and none that did not; returns how many were told."""
    deadline = time.monotonic() + DELIVERY_TIMEOUT_S
    while True:
        try:
            return compare(server)
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(1)


def compare(server) -> int:
    flows = json.loads(server.operator("flows", "--all", "--limit", "100000", "--json"))
    done: dict[str, set[str]] = {}
    for flow in flows:
        if flow["state"] == "SUCCESS":
            done.setdefault(flow["kind"], set()).add(flow["resource_id"])
    found = told([node.log for node in server.nodes])
    for kind, (event, _) in EVENTS.items():
        ended = done.get(kind, set())
        assert ended <= found[event], f"{event} was not told of {ended - found[event]}"
        # What goes with its volume is deleted by the volume's flow.
        resource = kind.split(":")[0]
        possible = ended if kind.endswith("create") else done.get(f"{resource}:create", set())
        assert found[event] <= possible, f"{event} was told of {found[event] - possible}, which is not so"
    return sum(len(resources) for resources in found.values())
