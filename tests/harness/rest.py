"""A thin REST client: one kept connection, one token, JSON in and out.

It resolves a cloud of a clouds.yaml as every OpenStack client does, so it drives Basalt and
any other endpoint alike.
"""

import http.client
import json
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import openstack


class Unanswered(Exception):
    """The connection broke, or the database was away: the request may or may not have been accepted."""


@dataclass
class Answer:
    status: int
    body: dict | bytes | None


class Cloud:
    """Token and endpoints of one cloud, by keystoneauth."""

    def __init__(self, name: str):
        self.connection = openstack.connect(cloud=name)
        self.project = self.connection.current_project_id
        self.volume_url = self.connection.session.get_endpoint(service_type="block-storage")
        self.image_url = self.connection.session.get_endpoint(service_type="image")
        self.token = self.connection.session.get_token()

    def volume(self, version: str = "3.71") -> "Rest":
        return Rest(self.volume_url, self.token, {"OpenStack-API-Version": f"volume {version}"})

    def image(self) -> "Rest":
        url = self.image_url.rstrip("/")
        return Rest(url if url.endswith("/v2") else url + "/v2", self.token, {})


class Rest:
    """One kept-alive connection to one endpoint. Not for several threads at once."""

    def __init__(self, url: str, token: str, headers: dict[str, str]):
        self.url = urlsplit(url.rstrip("/"))
        self.headers = {"X-Auth-Token": token, "Accept": "application/json", **headers}
        self.connection: http.client.HTTPConnection | None = None

    def call(self, method: str, path: str, body=None, content_type: str = "application/json") -> Answer:
        """Sends one request; an answer of any status is returned, a broken connection is `Unanswered`."""
        headers = dict(self.headers)
        if body is not None:
            headers["Content-Type"] = content_type
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
        try:
            if self.connection is None:
                kind = http.client.HTTPSConnection if self.url.scheme == "https" else http.client.HTTPConnection
                self.connection = kind(self.url.hostname, self.url.port, timeout=120)
            self.connection.request(method, self.url.path + path, body, headers)
            response = self.connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unanswered(str(error)) from error
        # 502 and 504 are of a balancer whose server died.
        if response.status in (502, 503, 504):
            raise Unanswered(data.decode(errors="replace"))
        is_json = "json" in (response.getheader("Content-Type") or "")
        return Answer(response.status, json.loads(data) if is_json and data else data)

    def ok(self, method: str, path: str, body=None, **options):
        """As `call`; a refusal is an error. Returns the body."""
        answer = self.call(method, path, body, **options)
        assert answer.status < 300, f"{method} {path} answered {answer.status}: {answer.body}"
        return answer.body

    def until(self, path: str, settled, timeout_s: float = 120, pause_s: float = 0.002):
        """Reads `path` until `settled(answer)` is true, across restarts; returns the answer."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                answer = self.call("GET", path)
                if settled(answer):
                    return answer
            except Unanswered:
                answer = None
            assert time.monotonic() < deadline, f"{path} did not settle: {answer}"
            time.sleep(pause_s)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None
