"""What can be set, said once: name, default, what is allowed, and what it means.

Flags, environment variables, `[settings]` of aorist.toml and `aorist config` are derived from the fields of `Settings`. Where that file
lies is found here too.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from aorist.errors import SettingError

FILE = "aorist.toml"
PREFIX = "AORIST_"
NOT_SETTINGS = frozenset({"ADDRESS", "FAILPOINTS", "CACHE"})
"""Variables with the prefix that mean something else: where clients call, and what tests and builds use."""

HIGHEST_PORT = 65_535

Value = str | int | float
V = TypeVar("V", str, int, float)


class Rule(NamedTuple):
    """What a setting means and allows."""

    doc: str
    choices: tuple[str, ...] = ()
    least: float = 0
    most: float = math.inf
    is_address: bool = False
    is_servers: bool = False


class Setting(NamedTuple):
    """One field of `Settings`, as flags and tables are made from it."""

    name: str
    type: type[Value]
    default: Value
    rule: Rule

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


def find_root(start: Path) -> Path | None:
    """The nearest folder at or above `start` with an aorist.toml."""
    return next((folder for folder in (start, *start.parents) if (folder / FILE).is_file()), None)


def read_config(root: Path) -> dict[str, Any]:
    """aorist.toml as it is. Raises SettingError."""
    try:
        return tomllib.loads((root / FILE).read_text())
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{root / FILE}: {error}") from None


def _set(
    default: V,
    doc: str,
    *,
    choices: tuple[str, ...] = (),
    least: float = 0,
    most: float = math.inf,
    is_address: bool = False,
    is_servers: bool = False,
) -> V:
    rule = Rule(doc, choices, least, most, is_address, is_servers)
    return field(default=default, metadata={"rule": rule})


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. Immutable; made by `load_settings`, which checks it."""

    listen: str = _set("127.0.0.1:7100", "Where gateways listen, HOST:PORT. Port 0: any free one.", is_address=True)
    worker_listen: str = _set("127.0.0.1:0", "Where the worker listens for gateways, HOST:PORT.", is_address=True)
    advertise: str = _set(
        "", "Under which HOST:PORT gateways reach the worker. Empty: the address it listens on.", is_address=True
    )
    member: str = _set("", "Name of this process among the owners. Empty: host name and process id.")
    metrics_listen: str = _set(
        "", "Where Prometheus finds metrics over plain HTTP, HOST:PORT. Empty: nowhere.", is_address=True
    )
    transport: str = _set(
        "native", "What serves gRPC: native is ten times faster, grpcio is the fallback.", choices=("native", "grpcio")
    )
    db: str = _set("aorist.db", "The SQLite file of the embedded mode.")
    kafka: str = _set("", "Brokers, HOST:PORT,HOST:PORT... of the event log. Empty: the SQLite file.", is_servers=True)
    cassandra: str = _set("", "Contact points, HOST:PORT,HOST:PORT... of the snapshot store.", is_servers=True)
    etcd: str = _set("", "Endpoints, HOST:PORT,HOST:PORT... of the ownership registry.", is_servers=True)
    keyspace: str = _set("aorist", "Keyspace of the snapshots in Cassandra.")
    etcd_prefix: str = _set("/aorist", "What the keys in etcd begin with; systems with different ones do not meet.")
    replicas: int = _set(3, "Copies of topics and of snapshots, when they are made.", least=1, most=9)
    lease_s: int = _set(2, "How long a process that is not heard of keeps its shards.", least=1, most=60)
    heartbeat_s: float = _set(0.1, "How often workers give each other a sign of life.", least=0.01, most=60)
    suspect_after_s: float = _set(
        0.5, "Silence after which a worker's shards go to those that hold them warm.", least=0.05, most=60
    )
    standbys: int = _set(1, "How many processes keep each shard warm beside its owner.", most=8)
    checkpoint_interval_s: float = _set(10.0, "Time between checkpoints of a shard.", least=0.01, most=3600)
    max_uncheckpointed_events: int = _set(
        10_000_000, "Events a shard folds beyond its last checkpoint before it pauses.", least=1000, most=10**12
    )
    fetch_memory_mb: int = _set(
        64,
        "Memory for events that are fetched and not folded yet, in MiB, for all views of a process.",
        least=8,
        most=65_536,
    )
    max_lag_ms: int = _set(
        30_000,
        "How far a shard may lag behind the log before its owner counts as not ready.",
        least=100,
        most=86_400_000,
    )
    max_quarantined_keys: int = _set(
        10, "Keys of a shard that are parked with an event that cannot be folded; the next one halts it.", most=1000
    )
    max_wait_ms: int = _set(
        2000, "How long a query waits for a fresh enough answer unless it says so itself.", most=600_000
    )
    max_wait_limit_ms: int = _set(60_000, "The longest wait a query may ask for.", most=600_000)
    max_skew_ms: int = _set(5000, "How far ahead of the gateway's clock the times of facts may be.", most=86_400_000)
    max_unacknowledged_bytes: int = _set(
        1_048_576, "What a stream may have in flight before it is read no further.", least=1024, most=2**30
    )
    max_message_bytes: int = _set(4_194_304, "The largest message taken.", least=1024, most=2**26)
    max_page_size: int = _set(1000, "The largest page of a list.", least=1, most=10_000)
    default_page_size: int = _set(100, "Entries on a page of a list that asks for no size.", least=1, most=10_000)
    drain_s: float = _set(10.0, "How long a stop waits for calls in flight.", most=3600)
    log_level: str = _set(
        "info", "What is logged: this and what is worse.", choices=("debug", "info", "warning", "error")
    )
    log_format: str = _set(
        "auto", "Form of the log. auto: human on a terminal, else json.", choices=("auto", "human", "json")
    )


def _described() -> dict[str, Setting]:
    fresh = Settings()
    found = {f.name: (getattr(fresh, f.name), f.metadata["rule"]) for f in fields(Settings)}
    return {name: Setting(name, type(default), default, rule) for name, (default, rule) in found.items()}


SETTINGS: Mapping[str, Setting] = _described()
"""Every setting by its name, in the order of `Settings`."""


def load_settings(
    file: Mapping[str, object], environ: Mapping[str, str], flags: Mapping[str, object | None]
) -> tuple[Settings, dict[str, str]]:
    """The settings in force, and for each where it came from.

    Later ones win: default, `file` (the table `[settings]` of aorist.toml), `environ` (AORIST_*), `flags` (by the names
    of settings; None: not given). Raises SettingError that names the place and what is allowed.
    """
    values: dict[str, Value] = {name: setting.default for name, setting in SETTINGS.items()}
    origins = dict.fromkeys(SETTINGS, "default")
    for name, raw in file.items():
        setting = _find(name, SETTINGS, f"{FILE}: [settings] has", "setting")
        values[name], origins[name] = _checked(setting, raw, f"{FILE}: [settings] {name}"), FILE
    variables = {setting.variable: setting for setting in SETTINGS.values()}
    for name, raw in environ.items():
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in NOT_SETTINGS:
            setting = _find(name, variables, "the environment has", "variable")
            origins[setting.name] = f"environment {name}"
            values[setting.name] = check_value(setting, raw, origins[setting.name])
    for name, given in flags.items():
        if given is not None:
            setting = _find(name, SETTINGS, "the flags have", "setting")
            origins[name] = f"flag {setting.flag}"
            values[name] = check_value(setting, given, origins[name])
    _check_at_most(values, origins, "max_wait_ms", "max_wait_limit_ms")
    _check_at_most(values, origins, "default_page_size", "max_page_size")
    _check_at_most(values, origins, "heartbeat_s", "suspect_after_s")
    return Settings(**values), origins  # type: ignore[arg-type]  # each was checked against the type of its field


def check_value(setting: Setting, raw: object, where: str) -> Value:
    """`raw`, which may be text, as the value of a setting. Raises SettingError that begins with `where`."""
    return _checked(setting, _parsed(setting, raw), where)


def parse_address(text: str, where: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; an IPv6 host stands in brackets. Raises SettingError that begins with `where`."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not (colon and host and port.isdecimal() and port.isascii()) or (":" in host and not bracketed):
        raise SettingError(f"{where}: {text!r} is not HOST:PORT, such as 127.0.0.1:7100 or [::1]:7100")
    if int(port) > HIGHEST_PORT:
        raise SettingError(f"{where}: port {port} is above {HIGHEST_PORT}")
    return host, int(port)


def _find(name: str, known: Mapping[str, Setting], place: str, what: str) -> Setting:
    if name in known:
        return known[name]
    raise SettingError(f"{place} no {what} {name}{_suggestion(name, known)}")


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"


def _parsed(setting: Setting, raw: object) -> object:
    """Text of environment or flags as a value of the setting's type; what is none is left for `_checked` to refuse."""
    if isinstance(raw, str):
        try:
            return setting.type(raw)
        except ValueError:
            return raw
    return raw


def _checked(setting: Setting, raw: object, where: str) -> Value:
    if setting.type is float and type(raw) is int:
        raw = float(raw)
    if type(raw) is not setting.type:
        wanted = {str: "text", int: "a whole number", float: "a number"}[setting.type]
        raise SettingError(f"{where}: {raw!r} is not {wanted}")
    return _checked_text(setting, raw, where) if isinstance(raw, str) else _checked_number(setting, raw, where)


def _checked_text(setting: Setting, text: str, where: str) -> str:
    if setting.rule.choices and text not in setting.rule.choices:
        raise SettingError(f"{where}: {text!r} is not one of {', '.join(setting.rule.choices)}")
    if not text and setting.default:
        raise SettingError(f"{where}: must not be empty; without it, it is {setting.default}")
    if text and setting.rule.is_servers:
        for server in text.split(","):
            parse_address(server, where)
    if text and setting.rule.is_address:
        _, port = parse_address(text, where)
        if not port and not setting.default:
            raise SettingError(f"{where}: port 0 reaches nobody; name a port, or leave it empty")
    return text


def _checked_number(setting: Setting, number: float, where: str) -> float:
    rule = setting.rule
    if not rule.least <= number <= rule.most:  # NaN is not, either
        raise SettingError(f"{where}: {number} is not between {rule.least:.12g} and {rule.most:.12g}")
    return number


def _check_at_most(values: Mapping[str, Value], origins: Mapping[str, str], name: str, limit: str) -> None:
    small, large = values[name], values[limit]
    if float(small) > float(large):
        places = f"{small} ({origins[name]}), is above {limit}, {large} ({origins[limit]})"
        raise SettingError(f"{name}, {places}: lower it, or raise the limit")
