"""How the registry lies in etcd: one small JSON value each; those of members and claims are bound to the member's lease.

    PREFIX/members/NAME                  {"address": ..., "views": ["VIEW@BUILD", ...], "leaving": ...}
    PREFIX/claims/VIEW@BUILD/PARTITION   {"member": NAME, "attempt": ...}
    PREFIX/answering/VIEW                {"build": ..., "before": ..., "dropped": [...]}

The epoch of a claim is not in its value: it is the revision at which the key was last put. So it is with the build that answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import structlog

from aorist.adapters.etcd.v3 import rpc_pb2 as pb
from aorist.errors import SettingError
from aorist.ports import Answering, Claim, Member, Ownership
from aorist.position import ShardName

log = structlog.get_logger()


class Keys:
    """The keys below one prefix: one registry."""

    def __init__(self, prefix: str) -> None:
        if not prefix.strip("/"):
            raise SettingError(
                f"etcd prefix {prefix!r} would share keys with everything else: give a name, such as /aorist"
            )
        root = prefix.rstrip("/")
        self._members = f"{root}/members/"
        self._claims = f"{root}/claims/"
        self._answering = f"{root}/answering/"
        self.all = pb.RangeRequest(key=f"{root}/".encode(), range_end=f"{root}0".encode())  # "0" comes after "/"

    def member(self, name: str) -> bytes:
        return f"{self._members}{name}".encode()

    def claim(self, shard: ShardName) -> bytes:
        return f"{self._claims}{shard.view}/{shard.partition}".encode()

    def answering(self, view: str) -> bytes:
        return f"{self._answering}{view}".encode()

    def snapshot(self, answer: pb.RangeResponse) -> Ownership:
        """The registry as read with `all`."""
        events = (pb.Event(kv=kv) for kv in answer.kvs)
        return self.after(Ownership(0), events, answer.header.revision)

    def after(self, before: Ownership, events: Iterable[pb.Event], revision: int) -> Ownership:
        """`before`, changed by what came after it, up to `revision`."""
        # Watchers hold the old ones.
        members, claims, answering = dict(before.members), dict(before.claims), dict(before.answering)
        for event in events:
            key = event.kv.key.decode(errors="replace")
            try:
                if key.startswith(self._members):
                    _change_member(members, key.removeprefix(self._members), event)
                elif key.startswith(self._claims):
                    _change_claim(claims, key.removeprefix(self._claims), event)
                elif key.startswith(self._answering):
                    _change_answering(answering, key.removeprefix(self._answering), event)
            except (ValueError, KeyError, TypeError):
                log.error("left out of the ownership registry: not a value of aorist", key=key, value=event.kv.value)
        return Ownership(revision, members, claims, answering)


def member_value(member: Member) -> bytes:
    return json.dumps({"address": member.address, "views": member.views, "leaving": member.leaving}).encode()


def address_of(value: bytes) -> str:
    """Of a member's value, for an error to tell."""
    return str(json.loads(value)["address"])


def claim_value(member: str, attempt: int) -> bytes:
    """`attempt` tells claims of one session apart, where an answer was lost."""
    return json.dumps({"member": member, "attempt": attempt}).encode()


def answering_value(said: Answering) -> bytes:
    return json.dumps({"build": said.build, "before": said.before, "dropped": sorted(said.dropped)}).encode()


def _change_member(members: dict[str, Member], name: str, event: pb.Event) -> None:
    members.pop(name, None)
    if not event.deleted:
        value = json.loads(event.kv.value)
        members[name] = Member(name, value["address"], tuple(value["views"]), bool(value.get("leaving", False)))


def _change_claim(claims: dict[ShardName, Claim], name: str, event: pb.Event) -> None:
    view, _, partition = name.rpartition("/")
    shard = ShardName(view, int(partition))
    claims.pop(shard, None)
    if not event.deleted:
        claims[shard] = Claim(json.loads(event.kv.value)["member"], event.kv.mod_revision)


def _change_answering(answering: dict[str, Answering], view: str, event: pb.Event) -> None:
    answering.pop(view, None)
    if not event.deleted:
        value = json.loads(event.kv.value)
        dropped = frozenset(map(int, value.get("dropped", ())))
        answering[view] = Answering(int(value["build"]), int(value["before"]), event.kv.mod_revision, dropped)
