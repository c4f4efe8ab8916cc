"""`check_fold` finds what is wrong with a fold, tells it with the shortest events, and passes what folds well."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest

from aorist.declare import View, check_fold
from aorist.declare.refold import ALL_POSITIONS, Difference, check, delivered
from aorist.errors import FoldCheckError, MisdeclaredError, SettingError
from materializers.arm_position import arm_position
from tests.unit.declare.folds import AS_JSON, BAD, GOOD, PROTO, last, view
from tests.unit.declare.things import Things, Wrong


def noted(key: str, at: int, amount: int = 0, **more: Any) -> Any:
    return PROTO.Noted(id=key, noted_at_us=at, amount=amount, **more)


def refusal(wrong: View[Any], **how: Any) -> str:
    with pytest.raises(FoldCheckError) as refused:
        check_fold(wrong, **how)
    return str(refused.value)


@pytest.mark.parametrize("good", GOOD, ids=[good.name for good in GOOD])
def test_a_good_fold_passes(good: View[Any]) -> None:
    checked = check_fold(good, examples=30)
    assert checked.left_out == ""
    assert checked.events >= checked.sequences == 30


@pytest.mark.parametrize(("bad", "says"), BAD.values(), ids=list(BAD))
def test_a_bad_fold_is_found_by_few_events(bad: View[Any], says: str) -> None:
    told = refusal(bad)
    assert told.startswith(f"{bad.place} does not fold repeatably: ")
    assert says in told
    assert len(re.findall(r"^  \d+: ", told, re.MULTILINE)) <= 2


def test_the_call_is_told_by_its_line_in_the_file_of_the_fold() -> None:
    assert re.search(r"calls io\.open \(\S+/folds\.py:\d+\): files\n", refusal(BAD["opens_a_file"][0]))


ADDS = """\
view `adds` does not fold repeatably: a rewind from 0 to 0
  0: a Noted {id: "a" noted_at_us: 1767225600000000}
state of a:
  each once: Note(number=10, text='', items=[])
  then:      Note(number=20, text='', items=[])
an event may come again: keep absolute values, or what tells that it was folded already; do not count or append"""


def test_events_what_was_done_and_both_states_are_told() -> None:
    assert refusal(BAD["adds"][0]).endswith(ADDS)


def test_a_piece_of_a_log_is_made_short_and_keeps_its_positions() -> None:
    wrong = BAD["knows_the_last_only"][0]
    piece = [(f"notes/1@{10 * n}", noted("ab"[n % 2], n, amount=n // 4)) for n in range(20)]
    told = refusal(wrong, pieces=[piece[:4], piece])
    assert len(re.findall(r"^  notes/1@\d+: ", told, re.MULTILINE)) == 2
    checked = check_fold(last, pieces=[piece, piece[:4]])
    assert checked == (2, 24, "")


def test_events_that_the_view_ignores_are_left_out() -> None:
    events = [PROTO.Left(id="a"), noted("a", 1), PROTO.Left(id="a")]
    assert [one.at for one in delivered(last, events)] == ["1"]
    assert check_fold(last, pieces=[[("0", PROTO.Left(id="a"))]]) == (1, 0, "")


def test_long_sequences_are_refolded_from_some_positions_only() -> None:
    folded = 0

    def counts(state: Any, event: Any) -> None:
        nonlocal folded
        folded += 1
        state.number = event.amount

    # Made by hand: what is declared may not count.
    counting = view(last.handlers["noted"])
    counting.handlers["noted"] = counts
    length = 10 * ALL_POSITIONS
    check(counting, delivered(counting, [noted("a", n, n) for n in range(length)]))
    assert folded < 4 * ALL_POSITIONS**2 * length


def test_equal_times_of_one_key_are_one_event_to_a_view_ordered_by_time() -> None:
    """What a robot reports of a moment, it reports once; so `>` and `>=` are both right."""
    latest = next(good for good in GOOD if good.ordered_by)
    check(latest, delivered(latest, [noted("a", 1, word="x"), noted("a", 1, word="y")]))
    wrong = BAD["takes_the_last_to_arrive"][0]
    late = delivered(wrong, [noted("a", 1), noted("a", 2)])
    with pytest.raises(Difference, match="event 0 alone once more, after 1"):
        check(wrong, late)


def test_examples_stand_for_events_that_would_be_made_up() -> None:
    divides = BAD["divides"][0].handlers["noted"]
    fine = view(divides, examples=[noted("a", 1, amount=2), noted("b", 1, amount=5)])
    assert check_fold(fine, examples=20).sequences > 5


def test_what_no_second_interpreter_can_import_is_said(things: Things) -> None:
    here = view(last.handlers["noted"])
    assert check_fold(here, examples=2).left_out == "no second interpreter: the view is declared at no file's top level"
    things.write(Wrong(()))
    left_out = check_fold(things.load().views["thing"], examples=2).left_out
    assert left_out.startswith(f"no second interpreter: {things.contract.package}_materializers.thing_view cannot be ")


def test_without_hypothesis_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(SettingError, match=r"hypothesis is not installed: install aorist\[check\]"):
        check_fold(last)
    assert check_fold(last, pieces=[]).sequences == 0


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"ordered_by": "noted_on"}, "ordered_by names `noted_on`, which is no single whole number of Noted"),
        ({"ordered_by": "id"}, "ordered_by names `id`, which is no single whole number of Noted"),
        ({"examples": [PROTO.Part()]}, "examples: Part is not an event of NoteEvent (it has: Noted, Left)"),
    ],
)
def test_what_a_view_says_for_it_is_checked_at_import(more: dict[str, Any], says: str) -> None:
    with pytest.raises(MisdeclaredError) as refused:
        View("notes", events=PROTO.NoteEvent, state=PROTO.Notes, ignores=[PROTO.Left], **more)
    assert says in str(refused.value)


def test_a_view_that_is_not_complete_is_refused() -> None:
    bare = View("bare", events=PROTO.NoteEvent, state=type(AS_JSON.decode(b"[]")), codec=AS_JSON)
    with pytest.raises(MisdeclaredError, match="Noted has no handler"):
        check_fold(bare)


# region library
def test_positions_fold_repeatably() -> None:
    check_fold(arm_position)


# endregion
