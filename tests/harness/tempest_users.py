"""Whom Tempest logs in as: users made beforehand for the dev identity, or its own in a real Keystone."""

import json

from .lab import Keystone
from .openstack import OpenStack
from .server import Basalt

PASSWORD = "tempest-password"


class DevUsers:
    """Users of the dev identity, enough for as many test classes as run at once.

    A class takes a member and a reader of one project, an admin, and somebody of another project:
    Tempest takes the first user that is free for the last, so those stand first.
    """

    def __init__(self, server: Basalt, workers: int):
        self.server = server
        self.accounts = []
        for number in range(workers + 2):
            name = f"tempest-other-{number}"
            self.accounts.append({"username": name, "project_name": name, "password": PASSWORD})
        for number in range(workers + 2):
            for role in ("member", "reader", "manager"):
                self.accounts.append({
                    "username": f"tempest-{role}-{number}", "project_name": f"tempest-{number}",
                    "password": PASSWORD, "roles": [role],
                })
        for number in range(workers + 2):
            name = f"tempest-admin-{number}"
            self.accounts.append({"username": name, "project_name": name, "password": PASSWORD, "roles": ["admin"]})

    def __enter__(self) -> "DevUsers":
        return self

    def __exit__(self, *_) -> None:
        pass

    def config(self) -> str:
        """The users as options of the server."""
        lines = ["[dev_identity]"]
        for one in self.accounts:
            roles = ",".join(one.get("roles", ["member"]))
            lines.append(f"user = {one['username']}:{PASSWORD}:{one['project_name']}:{roles}")
        return "\n".join(lines) + "\n"

    def client(self) -> OpenStack:
        return OpenStack(self.server)

    def sections(self, _web_url: str) -> dict[str, dict[str, object]]:
        # JSON is YAML: no library is needed to write it.
        accounts_file = self.server.folder / "accounts.yaml"
        accounts_file.write_text(json.dumps(self.accounts))
        return {
            "auth": {"use_dynamic_credentials": False, "test_accounts_file": accounts_file, "admin_role": "admin"},
            "identity": _identity(f"http://127.0.0.1:{self.server.identity_port}/v3"),
        }


class KeystoneUsers:
    """A Keystone of its own, in which Tempest makes users and projects as it needs them."""

    def __init__(self, server: Basalt, _workers: int):
        self.server = server
        self.keystone = Keystone(server.folder, server.volume_port, server.image_port)

    def __enter__(self) -> "KeystoneUsers":
        self.keystone.start()
        return self

    def __exit__(self, *_) -> None:
        self.keystone.stop()

    def config(self) -> str:
        return self.keystone.basalt_conf

    def client(self) -> OpenStack:
        return OpenStack(self.server, "admin", self.keystone.clouds)

    def sections(self, web_url: str) -> dict[str, dict[str, object]]:
        # With each project Tempest deletes its security groups: a network service that knows none.
        client = self.client()
        client.run("service", "create", "--name", "nothing", "network")
        client.run("endpoint", "create", "--region", "RegionOne", "network", "public", f"{web_url}/network")
        admin = json.loads(self.keystone.clouds.read_text())["clouds"]["admin"]["auth"]
        return {
            "auth": {
                "use_dynamic_credentials": True, "create_isolated_networks": False, "admin_role": "admin",
                "admin_username": admin["username"], "admin_password": admin["password"],
                "admin_project_name": admin["project_name"], "admin_domain_name": "Default",
            },
            "identity": _identity(admin["auth_url"]),
        }


def _identity(url: str) -> dict[str, object]:
    return {"auth_version": "v3", "uri_v3": url, "region": "RegionOne"}
