"""Settings: the later place wins, every value says where it came from, and each refusal says what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import NamedTuple

import pytest

from aorist.errors import SettingError
from aorist.settings import SETTINGS, Settings, load_settings, parse_address


def test_without_anything_said_defaults_hold() -> None:
    settings, origins = load_settings({}, {}, {})
    assert settings == Settings()
    assert origins == dict.fromkeys(SETTINGS, "default")


def test_the_later_place_wins_and_is_named() -> None:
    file = {"db": "file.db", "drain_s": 1, "max_wait_ms": 5, "member": "file"}
    environ = {"AORIST_DRAIN_S": "2.5", "AORIST_MAX_WAIT_MS": "6", "PATH": "/bin"}
    settings, origins = load_settings(file, environ, {"max_wait_ms": "7", "member": None})
    assert (settings.db, settings.drain_s, settings.max_wait_ms, settings.member) == ("file.db", 2.5, 7, "file")
    assert origins["db"] == "aorist.toml"
    assert origins["drain_s"] == "environment AORIST_DRAIN_S"
    assert origins["max_wait_ms"] == "flag --max-wait-ms"
    assert origins["member"] == "aorist.toml"
    assert origins["listen"] == "default"


def test_values_have_the_type_of_their_field_wherever_they_come_from() -> None:
    settings, _ = load_settings({"drain_s": 3}, {"AORIST_CHECKPOINT_INTERVAL_S": "4"}, {"max_skew_ms": 5})
    for value in (settings.drain_s, settings.checkpoint_interval_s):
        assert isinstance(value, float)
    assert isinstance(settings.max_skew_ms, int)


@pytest.mark.parametrize("name", ["ADDRESS", "FAILPOINTS", "CACHE"])
def test_variables_of_other_meaning_are_let_be(name: str) -> None:
    assert load_settings({}, {f"AORIST_{name}": "anything"}, {})[0] == Settings()


class Wrong(NamedTuple):
    file: Mapping[str, object] = {}
    environ: Mapping[str, str] = {}
    flags: Mapping[str, object] = {}


REFUSED = {
    "aorist.toml: [settings] has no setting chekpoint_interval_s; did you mean checkpoint_interval_s?": Wrong(
        {"chekpoint_interval_s": 1}
    ),
    f"aorist.toml: [settings] has no setting zzz; there are {', '.join(SETTINGS)}": Wrong({"zzz": 1}),
    "the environment has no variable AORIST_LISTNE; did you mean AORIST_LISTEN?": Wrong(environ={"AORIST_LISTNE": "x"}),
    "the flags have no setting dbb; did you mean db?": Wrong(flags={"dbb": "x"}),
    "aorist.toml: [settings] db: 7 is not text": Wrong({"db": 7}),
    "aorist.toml: [settings] max_wait_ms: '5' is not a whole number": Wrong({"max_wait_ms": "5"}),
    "aorist.toml: [settings] max_wait_ms: 5.5 is not a whole number": Wrong({"max_wait_ms": 5.5}),
    "aorist.toml: [settings] max_wait_ms: True is not a whole number": Wrong({"max_wait_ms": True}),
    "environment AORIST_MAX_WAIT_MS: 'soon' is not a whole number": Wrong(environ={"AORIST_MAX_WAIT_MS": "soon"}),
    "environment AORIST_MAX_WAIT_MS: '' is not a whole number": Wrong(environ={"AORIST_MAX_WAIT_MS": ""}),
    "flag --drain-s: 'long' is not a number": Wrong(flags={"drain_s": "long"}),
    "aorist.toml: [settings] drain_s: 'long' is not a number": Wrong({"drain_s": "long"}),
    "flag --drain-s: -1.0 is not between 0 and 3600": Wrong(flags={"drain_s": -1.0}),
    "environment AORIST_DRAIN_S: nan is not between 0 and 3600": Wrong(environ={"AORIST_DRAIN_S": "nan"}),
    "flag --checkpoint-interval-s: 0.0 is not between 0.01 and 3600": Wrong(flags={"checkpoint_interval_s": 0}),
    "flag --max-message-bytes: 67108865 is not between 1024 and 67108864": Wrong(
        flags={"max_message_bytes": 2**26 + 1}
    ),
    "flag --transport: 'http' is not one of native, grpcio": Wrong(flags={"transport": "http"}),
    "environment AORIST_LOG_LEVEL: 'INFO' is not one of debug, info, warning, error": Wrong(
        environ={"AORIST_LOG_LEVEL": "INFO"}
    ),
    "environment AORIST_DB: must not be empty; without it, it is aorist.db": Wrong(environ={"AORIST_DB": ""}),
    "flag --listen: must not be empty; without it, it is 127.0.0.1:7100": Wrong(flags={"listen": ""}),
    "flag --listen: '7100' is not HOST:PORT, such as 127.0.0.1:7100 or [::1]:7100": Wrong(flags={"listen": "7100"}),
    "flag --worker-listen: port 65536 is above 65535": Wrong(flags={"worker_listen": "h:65536"}),
    "flag --advertise: port 0 reaches nobody; name a port, or leave it empty": Wrong(flags={"advertise": "h:0"}),
    "max_wait_ms, 9 (flag --max-wait-ms), is above max_wait_limit_ms, 8 (aorist.toml): lower it, or raise the limit": Wrong(
        {"max_wait_limit_ms": 8}, flags={"max_wait_ms": 9}
    ),
    "default_page_size, 100 (default), is above max_page_size, 50 (aorist.toml): lower it, or raise the limit": Wrong(
        {"max_page_size": 50}
    ),
}


@pytest.mark.parametrize(("sentence", "wrong"), REFUSED.items())
def test_what_cannot_be_is_refused_by_place_and_rule(sentence: str, wrong: Wrong) -> None:
    with pytest.raises(SettingError) as refusal:
        load_settings(*wrong)
    assert str(refusal.value) == sentence


@pytest.mark.parametrize("text", [":7100", "host:", "host:-1", "host:x", "::1:7100", "host:\uff17"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"^place: .* is not HOST:PORT"):
        parse_address(text, "place")


def test_addresses_come_apart() -> None:
    assert parse_address("robots.example:7100", "place") == ("robots.example", 7100)
    assert parse_address("[::1]:0", "place") == ("[::1]", 0)


def test_every_setting_has_a_meaning_and_a_default_that_its_own_rules_allow() -> None:
    assert [field.name for field in fields(Settings)] == list(SETTINGS)
    assert all(setting.rule.doc.endswith(".") for setting in SETTINGS.values())
    given = {name: setting.default for name, setting in SETTINGS.items() if setting.default != ""}
    assert load_settings(given, {}, {})[0] == Settings()


@pytest.mark.parametrize("name", ["kafka", "cassandra", "etcd"])
def test_servers_are_a_list_of_addresses(name: str) -> None:
    settings, _ = load_settings({}, {}, {name: "a.example:1,[::1]:2"})
    assert getattr(settings, name) == "a.example:1,[::1]:2"
    for wrong in ("nohost", "a.example:1,", "a.example:1, b.example", "a.example:99999"):
        with pytest.raises(SettingError, match=f"flag --{name}: "):
            load_settings({}, {}, {name: wrong})
