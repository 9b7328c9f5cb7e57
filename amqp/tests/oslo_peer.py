"""A peer on oslo.messaging: calls Basalt, answers it, or listens to its notifications.

usage: oslo_peer.py TRANSPORT_URL client TOPIC SERVER | server TOPIC SERVER | listener EXCHANGE...

Prints one line of JSON for each thing that it did or saw.
"""

import json
import sys
import time

import oslo_messaging
from oslo_config import cfg

ALLOWED = ["cinder.exception", "builtins", "oslo_messaging.rpc.dispatcher"]


def say(value) -> None:
    # In one piece: listeners run in threads.
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def configuration(exchange: str = "openstack") -> cfg.ConfigOpts:
    cfg.CONF([], project="peer")
    oslo_messaging.set_transport_defaults(exchange)
    return cfg.CONF


def client(url: str, topic: str, server: str) -> None:
    transport = oslo_messaging.get_rpc_transport(configuration(), url=url, allowed_remote_exmods=ALLOWED)
    target = oslo_messaging.Target(topic=topic, version="3.0")
    rpc = oslo_messaging.get_rpc_client(transport, target)
    context = {"request_id": "req-peer", "user_id": "user", "project_id": "project"}
    one = rpc.prepare(server=server, version="3.2", timeout=20)
    say({"echo": one.call(context, "echo", x=1)})
    say({"whoami": one.call(context, "whoami")})
    try:
        one.call(context, "fail")
    except oslo_messaging.RemoteError as error:
        say({"fail": [error.exc_type, str(error.value)]})
    try:
        rpc.prepare(version="3.9").call(context, "echo", x=1)
    except oslo_messaging.UnsupportedVersion:
        say({"newer": "UnsupportedVersion"})
    except oslo_messaging.RemoteError as error:
        say({"newer": error.exc_type})
    monitored = rpc.prepare(timeout=20, call_monitor_timeout=1)
    say({"slow": monitored.call(context, "slow")})
    rpc.cast(context, "count")
    rpc.prepare(fanout=True).cast(context, "count")
    time.sleep(1)
    say({"counted": one.call(context, "count")})


class Endpoint:
    target = oslo_messaging.Target(version="1.2")

    def echo(self, context, value):
        say({"echo": [context.get("request_id"), context.get("project_id")]})
        return value

    def fail(self, context):
        raise ValueError("on purpose")


def server(url: str, topic: str, name: str) -> None:
    transport = oslo_messaging.get_rpc_transport(configuration(), url=url)
    target = oslo_messaging.Target(topic=topic, server=name)
    running = oslo_messaging.get_rpc_server(transport, target, [Endpoint()], executor="threading")
    running.start()
    time.sleep(1)
    say("ready")
    running.wait()


class Listener:
    def info(self, context, publisher_id, event_type, payload, metadata):
        say([publisher_id, event_type, payload, metadata["message_id"]])

    error = info


def listener(url: str, *exchanges: str) -> None:
    transport = oslo_messaging.get_notification_transport(configuration(exchanges[0]), url=url)
    targets = [oslo_messaging.Target(topic="notifications", exchange=exchange) for exchange in exchanges]
    running = oslo_messaging.get_notification_listener(transport, targets, [Listener()], executor="threading")
    # One thread: in the order in which they come.
    transport.conf.set_override("executor_thread_pool_size", 1)
    running.start()
    running.wait()


{"client": client, "server": server, "listener": listener}[sys.argv[2]](sys.argv[1], *sys.argv[3:])
