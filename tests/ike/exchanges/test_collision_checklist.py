"""The rekey, delete and collision cases that strongSwan 6.0.6 tests by name (src/libcharon/tests/suites), and where ours stand.

Names are facts; nothing else of them is here. A case is either played by tests of ours, whose names must exist, or it
is of something that we do not speak yet and says so.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODULES = {"detail": "test_crossings_in_detail", "create": "test_create_child", "collisions": "test_collisions"}
MULTI_KE = "no additional key exchanges (RFC 9370) yet"

CHILD_REKEY = {
    "regular": "create.test_the_initiator_of_a_rekey_switches_at_once_and_the_responder_waits",
    "regular_multi_ke": MULTI_KE,
    "regular_ke_invalid": "detail.test_a_rekey_whose_group_the_peer_does_not_want",
    "regular_ke_invalid_multi_ke": MULTI_KE,
    "regular_responder_ignore_soft_expire": "detail.test_a_soft_limit_of_a_replaced_child_begins_nothing",
    "regular_responder_handle_hard_expire": "detail.test_a_hard_limit_of_a_replaced_child_deletes_it_and_the_new_one_carries_on",
    "regular_responder_delete": "detail.test_the_new_child_is_deleted_before_the_old_one",
    "regular_responder_lost_sa": "detail.test_a_child_that_the_responder_lost_is_made_anew",
    "regular_responder_incorrect_delete": "detail.test_a_responder_that_deletes_the_old_child_itself",
    "regular_delete_timeout": "detail.test_a_peer_that_never_answers_the_delete_of_the_old_child_is_given_up_once",
    "collision": "collisions.test_both_rekey_the_child",
    "collision_multi_ke": MULTI_KE,
    "collision_mixed": MULTI_KE,
    "collision_delayed_response": "detail.test_child_rekeys_cross_and_one_response_is_late",
    "collision_delayed_response_delete": "detail.test_child_rekeys_cross_and_the_new_one_is_deleted_before_the_late_response",
    "collision_delayed_response_multi_ke": MULTI_KE,
    "collision_delayed_request": "detail.test_child_rekeys_cross_and_one_request_is_late",
    "collision_delayed_request_more": "detail.test_child_rekeys_cross_one_request_is_late_and_the_next_rekey_overtakes_it",
    "collision_delayed_request_more_delete": "detail.test_child_rekeys_cross_one_request_is_late_and_the_child_is_deleted_meanwhile",
    "collision_delayed_request_multi_ke": MULTI_KE,
    "collision_ke_invalid": "detail.test_rekeys_cross_with_groups_that_the_other_does_not_want",
    "collision_ke_invalid_delayed_retry": "detail.test_rekeys_cross_with_groups_that_the_other_does_not_want",
    "collision_responder_incorrect_delete": "detail.test_child_rekeys_cross_and_the_loser_deletes_the_old_child_too",
    "collision_delete": "detail.test_a_rekey_of_a_child_that_is_being_deleted_is_refused_for_now",
    "collision_delete_multi_ke": MULTI_KE,
    "collision_delete_drop_delete": "detail.test_a_child_rekey_crosses_its_delete",
    "collision_delete_drop_rekey": "detail.test_a_child_rekey_crosses_its_delete",
    "collision_delete_delayed_response": "detail.test_a_child_rekey_crosses_its_delete",
    "collision_ike_rekey": "detail.test_a_child_rekey_crosses_an_ike_rekey",
    "collision_ike_delete": "detail.test_a_child_exchange_crosses_the_delete_of_the_ike_sa",
}
IKE_REKEY = {
    "regular": "create.test_whoever_rekeys_is_the_new_initiator_and_message_ids_start_again",
    "regular_multi_ke": MULTI_KE,
    "regular_ke_invalid": "detail.test_a_rekey_whose_group_the_peer_does_not_want",
    "regular_ke_invalid_multi_ke": MULTI_KE,
    "collision": "collisions.test_both_rekey_the_ike_sa",
    "collision_multi_ke": MULTI_KE,
    "collision_mixed": MULTI_KE,
    "collision_ke_invalid": "detail.test_rekeys_cross_with_groups_that_the_other_does_not_want",
    "collision_ke_invalid_delayed_retry": "detail.test_rekeys_cross_with_groups_that_the_other_does_not_want",
    "collision_delayed_response": "detail.test_ike_rekeys_cross_and_one_response_is_late",
    "collision_delayed_response_multi_ke": MULTI_KE,
    "collision_dropped_request": "detail.test_ike_rekeys_cross_and_one_request_is_not_seen",
    "collision_delayed_request": "detail.test_ike_rekeys_cross_and_one_request_is_not_seen",
    "collision_delayed_request_and_delete": "detail.test_ike_rekeys_cross_and_one_request_is_not_seen",
    "collision_delayed_request_multi_ke": MULTI_KE,
    "collision_delete": "detail.test_an_ike_rekey_crosses_the_delete",
    "collision_delete_multi_ke": MULTI_KE,
    "collision_delete_drop_delete": "detail.test_an_ike_rekey_crosses_the_delete",
}
CHILD_CREATE = {
    "duplicate": "detail.test_a_child_like_one_that_stands_is_made_beside_it_only_when_asked_for",
    "collision_ike_rekey": "detail.test_a_new_child_crosses_an_ike_rekey_and_comes_on_the_new_ike_sa",
    "multi_ke": MULTI_KE,
}
CHILD_DELETE = {
    "regular": "detail.test_one_deletes_the_child",
    "collision": "detail.test_both_delete_the_child",
    "collision_drop": "detail.test_both_delete_the_child",
    "collision_ike_rekey": "detail.test_a_child_delete_crosses_an_ike_rekey",
    "collision_ike_delete": "detail.test_a_child_exchange_crosses_the_delete_of_the_ike_sa",
}
IKE_DELETE = {
    "regular": "detail.test_one_deletes_the_ike_sa",
    "collision": "detail.test_both_delete_the_ike_sa",
}
SUITES = {
    "child_rekey": CHILD_REKEY,
    "ike_rekey": IKE_REKEY,
    "child_create": CHILD_CREATE,
    "child_delete": CHILD_DELETE,
    "ike_delete": IKE_DELETE,
}
CASES = [(f"{suite}.{name}", ours) for suite, cases in SUITES.items() for name, ours in cases.items()]


def names_in(module: str) -> set[str]:
    tree = ast.parse((HERE / f"{module}.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("case", "ours"), CASES, ids=[case for case, _ in CASES])
def test_every_case_has_a_test_or_a_reason(case: str, ours: str) -> None:
    if ours == MULTI_KE:
        assert "multi_ke" in case or "mixed" in case
    else:
        module, _, name = ours.partition(".")
        assert name in names_in(MODULES[module])


def test_the_list_is_whole() -> None:
    assert {suite: len(cases) for suite, cases in SUITES.items()} == {
        "child_rekey": 30,
        "ike_rekey": 18,
        "child_create": 3,
        "child_delete": 5,
        "ike_delete": 2,
    }
