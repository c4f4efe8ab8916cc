"""What files declare is checked against each other, and aorist.toml against the folders: every refusal names files and says what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from aorist.declare import find_root, load_project
from aorist.errors import MisdeclaredError, SettingError
from tests.unit.declare.contract import ROOT
from tests.unit.declare.things import COMMANDS, COMMANDS_FILE, QUERIES_FILE, VIEW, VIEW_FILE, Things, Wrong

RIGHT = Wrong(())


def test_this_repository_loads() -> None:
    project = load_project(ROOT)
    assert "arm_position" in project.views


def test_two_views_of_one_name_are_refused_by_both_places(things: Things) -> None:
    things.write(RIGHT)
    things.add("materializers", "another_view.py", VIEW)
    sentence = things.refusal(MisdeclaredError)
    assert f"{VIEW_FILE}:" in sentence
    assert "another_view.py:" in sentence
    assert "view `thing`: its name is taken, by " in sentence
    assert sentence.endswith(": rename one of them")


def test_two_views_of_one_name_in_one_file_are_refused(things: Things) -> None:
    things.write(
        Wrong(
            (),
            view={
                "@thing.apply": "twin = View('thing', events=ThingEvent, state=Thing, ignores=[Moved, Stopped])\n\n"
                "@thing.apply"
            },
        )
    )
    assert "view `thing`: its name is taken, by " in things.refusal(MisdeclaredError)


def test_a_view_imported_from_another_file_is_still_one_view(things: Things) -> None:
    things.write(RIGHT)
    module = f"{things.roles['materializers']}.{VIEW_FILE.removesuffix('.py')}"
    other = VIEW.replace("thing", "things").replace('View("things"', 'View("things"')
    other = other[: other.index("@things.get")]
    things.add("materializers", "z_another.py", other + f"\nfrom {module} import thing\n")
    assert sorted(things.load().views) == ["thing", "things"]


def test_a_second_publisher_of_a_topic_is_refused_by_both_places(things: Things) -> None:
    things.write(RIGHT)
    things.add("command_gateway", "other_commands.py", COMMANDS)
    sentence = things.refusal(MisdeclaredError)
    assert f"{COMMANDS_FILE}:" in sentence
    assert "other_commands.py:" in sentence
    assert "would be a second publisher of topic things, beside " in sentence
    assert sentence.endswith(": give one of them its own topic")


def test_a_query_of_a_view_that_nobody_declares_is_refused(things: Things) -> None:
    renamed = {'answered_by) = "thing"': 'answered_by) = "lost"'}
    no_queries = {"@thing.get\n": "", "@thing.watch\n": "", "@thing.list\n": ""}
    things.write(Wrong((), proto=renamed, view=no_queries))
    sentence = things.refusal(MisdeclaredError)
    assert f"{QUERIES_FILE}:" in sentence
    assert "GetThing is answered by view `lost`, which no file of role materializers declares: add it" in sentence


def test_a_view_that_answers_none_of_its_queries_is_refused(things: Things) -> None:
    things.write(Wrong((), view={"@thing.get\n": "", "@thing.watch\n": "", "@thing.list\n": ""}))
    sentence = things.refusal(MisdeclaredError)
    assert f"{VIEW_FILE}:" in sentence
    assert "view `thing`: has no handler for " in sentence
    assert ".ThingQueries.GetThing: add one that takes GetThingRequest" in sentence


def test_a_service_that_routes_by_another_topic_than_its_view_folds_is_refused(things: Things) -> None:
    other = """
        message OtherEvent {
          option (aorist.v1.topic) = { name: "others" partitions: 2 key: "id" retention_ms: 1000 };
          aorist.v1.EventMeta meta = 1;
          oneof event { Moved moved = 2; }
        }
        message Other {"""
    things.write(Wrong((), proto={"message Other {": other}, queries={"events=ThingEvent": "events=OtherEvent"}))
    sentence = things.refusal(MisdeclaredError)
    assert f"{QUERIES_FILE}:" in sentence
    assert f"{VIEW_FILE}:" in sentence
    assert "routes by topic others, but " in sentence
    assert " folds things: name the same envelope in both" in sentence


def test_a_file_that_declares_nothing_is_refused(things: Things) -> None:
    things.write(RIGHT)
    file = things.add("materializers", "notes.py", "x = 1\n")
    folder = things.roles["materializers"]
    assert things.refusal(MisdeclaredError) == f"{file}: declares no View: every file in {folder}/ declares one"


def test_files_that_begin_with_an_underscore_are_left_alone(things: Things) -> None:
    things.write(RIGHT)
    things.add("materializers", "_shared.py", "x = 1\n")
    assert list(things.load().views) == ["thing"]


def test_an_unknown_role_is_refused(things: Things) -> None:
    things.write(RIGHT)
    things.config('[roles]\nmaterialisers = "materializers"\n')
    sentence = things.refusal(SettingError)
    assert sentence.startswith(
        f"{things.root / 'aorist.toml'}: [roles]: no `materialisers`: there are command_gateway, materializers,"
    )


def test_a_role_without_its_folder_is_refused(things: Things) -> None:
    things.write(RIGHT)
    things.config('[roles]\nmaterializers = "views"\n')
    assert things.refusal(SettingError) == (
        f"{things.root / 'aorist.toml'}: role materializers names the folder `views`, which is not there: make it, or remove the line"
    )


def test_a_config_that_is_no_toml_is_refused_by_its_name(things: Things) -> None:
    things.config("[roles\n")
    assert things.refusal(SettingError).startswith(f"{things.root / 'aorist.toml'}: ")


def test_plugins_and_settings_are_passed_on(things: Things) -> None:
    things.config('[cli]\nplugins = ["a.b"]\n[settings]\ndb = "x.db"\n')
    project = things.load()
    assert project.plugins == ["a.b"]
    assert project.config["settings"] == {"db": "x.db"}


def test_the_root_is_the_nearest_folder_above_with_a_config(tmp_path: Path) -> None:
    inner = tmp_path / "project" / "deep" / "deeper"
    inner.mkdir(parents=True)
    (tmp_path / "project" / "aorist.toml").write_text("")
    assert find_root(inner) == find_root(tmp_path / "project") == tmp_path / "project"


def test_a_project_is_importable_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aorist.toml").write_text("")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    load_project(tmp_path)
    assert sys.path[0] == str(tmp_path)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("roles = 3", "[roles]: is 3: it must be a table"),
        ("[roles]\nmaterializers = 5", "[roles]: materializers is 5: it must be a text"),
        ("[cli]\nplugin = []", "[cli]: no `plugin`: there are plugins, demo"),
        ('[cli]\nplugins = "a.b"\ndemo = []', "[cli]: demo is []: it must be a text"),
        ("[cli]\nplugins = [1]", "[cli]: plugins is [1]: it must be a list of texts"),
        ("[setings]\ndb = 1", "no table [setings]: there are [roles], [cli], [settings]"),
    ],
)
def test_a_config_with_anything_else_in_it_is_refused(things: Things, config: str, says: str) -> None:
    things.config(config)
    assert things.refusal(SettingError) == f"{things.root / 'aorist.toml'}: {says}"


def test_a_file_that_is_no_python_is_refused_by_file_and_line(things: Things) -> None:
    things.write(RIGHT)
    file = things.add("materializers", "broken.py", "x = 1\ndef f(:\n")
    assert things.refusal(MisdeclaredError).startswith(f"{file}:2: ")


def test_a_view_that_no_query_service_asks_is_refused(things: Things) -> None:
    things.write(RIGHT)
    things.config(f'[roles]\nmaterializers = "{things.roles["materializers"]}"\n')
    package = things.contract.package
    assert things.refusal(MisdeclaredError).endswith(
        f"answers GetThing, but no file of role query_gateway serves {package}.ThingQueries: add one with "
        f'`Queries("{package}.ThingQueries", events=ThingEvent)`'
    )


def test_items_of_a_list_without_their_key_are_refused(things: Things) -> None:
    things.write(
        Wrong((), proto={"message Thing { string id = 1 [(aorist.v1.key) = true];": "message Thing { string id = 1;"})
    )
    assert "ListThings: Thing must mark exactly the key of topic things (id)" in things.refusal(MisdeclaredError)
