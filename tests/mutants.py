"""The sessions' code with one condition broken at a time, and the test of the conformance suite that each one fails.

A mutant is a copy of a module whose source was edited; nothing is patched. An edit whose text the module no longer
holds is an error, so a mutant cannot survive by missing its target.
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from app.sessions import claims, dynamodb, sqlite
from tests.conformance.stores import (
    test_erasure,
    test_faults,
    test_leases,
    test_listing,
    test_port,
    test_races,
    test_turns,
    test_wire,
)
from tests.conformance.stores.rig import Parts
from tests.faults import Fault


@dataclass(frozen=True, slots=True)
class Edit:
    """What to write instead of the one place in the module where `old` stands."""

    module: ModuleType
    old: str
    new: str

    def undone(self) -> "Edit":
        """Return the edit that changes nothing."""
        return Edit(self.module, self.old, self.old)

    def parts(self) -> Parts:
        """Return the classes of the suite, one of them from the edited copy of the module."""
        source = inspect.getsource(self.module)
        if source.count(self.old) != 1:
            raise LookupError(f"{self.module.__name__} holds this {source.count(self.old)} times: {self.old}")
        copy = ModuleType(self.module.__name__)
        exec(compile(source.replace(self.old, self.new), f"<mutant of {copy.__name__}>", "exec"), copy.__dict__)  # noqa: S102
        if self.module is claims:
            vars(copy)["Claim"] = claims.Claim  # the tests ask for its class
            return Parts(claims=copy.Claims)
        return Parts(sqlite=copy.SQLiteStore) if self.module is sqlite else Parts(dynamodb=copy.DynamoDBStore)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A condition broken in each store that has it, and the test that must notice."""

    name: str
    killed_by: Callable[[Any], Awaitable[None]]
    edits: tuple[Edit, ...]


ALWAYS = "(attribute_exists(pk) OR attribute_not_exists(pk))"
ALWAYS_RUN = "(run = :run OR NOT run = :run)"  # true of any item; DynamoDB refuses a value that is not used
UPSERT = " ON CONFLICT DO UPDATE SET run = excluded.run, req = excluded.req, lease = excluded.lease, body = NULL"
COMMIT = "UPDATE turns SET expires = ?, lease = NULL, body = ?, created = ? WHERE pk = ? AND turn = ? AND run = ?"
TAKEOVER = " WHERE pk = ? AND turn = ? AND run = ? AND body IS NULL"
RELEASE = "DELETE FROM turns WHERE pk = ? AND turn = ? AND run = ? AND body IS NULL"

MUTANTS = (
    Mutant(
        "takeover ignores the body",
        test_leases.test_a_commit_between_a_takers_read_and_its_claim_survives,
        (
            Edit(dynamodb, '"run = :run AND attribute_not_exists(body)", dead_run', '"run = :run", dead_run'),
            Edit(sqlite, f'"{TAKEOVER}"', f'"{TAKEOVER.removesuffix(" AND body IS NULL")}"'),
        ),
    ),
    Mutant(
        "takeover ignores who is dead",
        test_races.test_of_many_takers_one_wins,
        (
            Edit(
                dynamodb,
                '"run = :run AND attribute_not_exists(body)", dead_run',
                f'"{ALWAYS_RUN} AND attribute_not_exists(body)", dead_run',
            ),
            Edit(sqlite, f'"{TAKEOVER}"', f'"{TAKEOVER.replace("run = ?", "? IS NOT NULL")}"'),
        ),
    ),
    Mutant(
        "claim unconditional",
        test_races.test_of_many_claims_of_a_new_turn_one_wins,
        (
            Edit(dynamodb, '"attribute_not_exists(pk)"', f'"{ALWAYS}"'),
            Edit(sqlite, " ON CONFLICT DO NOTHING", UPSERT),
        ),
    ),
    Mutant(
        "claim repeatable",
        lambda rig: test_port.test_a_claim_of_a_present_turn_changes_nothing(rig, test_port.DONE, "run"),
        (
            Edit(
                dynamodb,
                '"attribute_not_exists(pk)", Item=dump(key, item)',
                '"attribute_not_exists(pk) OR run = :run", item.run, Item=dump(key, item)',
            ),
            Edit(sqlite, " ON CONFLICT DO NOTHING", f"{UPSERT} WHERE run = excluded.run"),
        ),
    ),
    Mutant(
        "commit unconditional",
        test_erasure.test_a_commit_after_a_delete_resurrects_nothing,
        (
            Edit(dynamodb, '"run = :run", item.run', f'"{ALWAYS} OR run = :run", item.run'),
            Edit(
                sqlite,
                COMMIT,
                "REPLACE INTO turns (expires, body, created, pk, turn, run, req) VALUES (?, ?, ?, ?, ?, ?, '')",
            ),
        ),
    ),
    Mutant(
        "commit on mere existence",
        test_leases.test_an_overtaken_run_cannot_commit,
        (
            Edit(dynamodb, '"run = :run", item.run', f'"{ALWAYS_RUN}", item.run'),
            Edit(sqlite, COMMIT, COMMIT.replace("AND run = ?", "AND ? IS NOT NULL")),
        ),
    ),
    Mutant(
        "abort ignores the body",
        test_leases.test_a_release_never_removes_the_runs_own_commit,
        (
            Edit(dynamodb, '"DeleteItem", "run = :run AND attribute_not_exists(body)"', '"DeleteItem", "run = :run"'),
            Edit(sqlite, RELEASE, RELEASE.removesuffix(" AND body IS NULL")),
        ),
    ),
    Mutant(
        "abort ignores the run",
        test_leases.test_an_overtaken_run_cannot_release,
        (
            Edit(
                dynamodb,
                '"DeleteItem", "run = :run AND attribute_not_exists(body)"',
                f'"DeleteItem", "{ALWAYS_RUN} AND attribute_not_exists(body)"',
            ),
            Edit(sqlite, RELEASE, RELEASE.replace("AND run = ?", "AND ? IS NOT NULL")),
        ),
    ),
    Mutant(
        "lease ignored",
        test_leases.test_a_living_lease_is_respected,
        (Edit(claims, "if head.lease > self.clock():", "if False:"),),
    ),
    Mutant(
        "no replay",
        test_turns.test_the_same_key_and_message_replay_the_stored_answer,
        (Edit(claims, "if item.req == request_id:", "if False:"),),
    ),
    Mutant(
        "replay whatever the message",
        test_turns.test_the_same_key_with_another_message_is_refused,
        (Edit(claims, "if turn.message != message:", "if False:"),),
    ),
    Mutant(
        "ascending window",
        test_turns.test_an_agent_sees_the_newest_done_turns_oldest_first,
        (
            Edit(
                dynamodb,
                "ScanIndexForward=False,\n            ConsistentRead",
                "ScanIndexForward=True,\n            ConsistentRead",
            ),
            Edit(sqlite, "ORDER BY turn DESC", "ORDER BY turn ASC"),
        ),
    ),
    Mutant(
        "expired shown",
        test_erasure.test_an_expired_turn_is_invisible_and_its_number_is_not_used_again,
        (Edit(claims, " and item.expires > now", ""),),
    ),
    Mutant(
        "own lost claim not recognised",
        lambda rig: test_faults.test_one_fault_on_any_call_of_a_turn_is_not_noticed(rig, "claim", Fault.REPLY_LOST),
        (Edit(claims, "head.body is None and head.run == run", "False"),),
    ),
    Mutant(
        "window without room for an open turn",
        test_turns.test_a_run_that_takes_a_turn_over_sees_a_whole_window,
        (Edit(claims, "self.window + 1)", "self.window)"),),
    ),
    Mutant(
        "every turn listed",
        test_listing.test_sessions_come_newest_first_each_once,
        (Edit(claims, "if claim.item.turn == 1 else None", ""),),
    ),
    Mutant(
        "everybody's sessions listed",
        test_listing.test_another_principals_sessions_are_not_listed,
        (
            Edit(dynamodb, '{":principal": {"S": principal}}', '{":principal": {"S": "principal2"}}'),
            Edit(sqlite, " AND substr(pk, 1, ?) = ?", " AND (? IS NOT NULL OR ? IS NOT NULL)"),
        ),
    ),
    Mutant(
        "keys parted at the first slash",
        test_listing.test_a_principal_may_hold_what_parts_it_from_its_session,
        (
            Edit(dynamodb, 'rpartition("/")[2]', 'partition("/")[2]'),
            Edit(sqlite, "instr(substr(pk, ?), '/') = 0", "? IS NOT NULL"),
        ),
    ),
    Mutant(
        "the place of a page ignored",
        test_listing.test_pages_join_without_gap_or_repetition_even_of_sessions_of_one_moment,
        (
            Edit(dynamodb, "if before else {}", "if before and not before else {}"),
            Edit(sqlite, "(created, pk) < (?, ?)", "created < ? AND pk <> ?"),
        ),
    ),
    Mutant(
        "a counter that does not count by one",
        test_port.test_a_counter_counts_every_call_once_whoever_counts_with_it,
        (
            Edit(dynamodb, '{f":{name}": amount for', '{f":{name}": amount + 1 for'),
            Edit(sqlite, "SET value = value + excluded.value,", "SET value = excluded.value,"),
        ),
    ),
    Mutant(
        "one counter for all windows",
        lambda rig: test_port.test_another_counter_begins_by_itself(rig, test_port.COUNTER, 8),
        (
            Edit(dynamodb, '"Key": key_of(key, window)', '"Key": key_of(key, 1)'),
            Edit(sqlite, "[(str(key), window,", "[(str(key), 1,"),
        ),
    ),
    Mutant(
        "one counter for all principals",
        lambda rig: test_port.test_another_counter_begins_by_itself(
            rig, replace(test_port.COUNTER, principal="principal2"), 7
        ),
        (
            Edit(dynamodb, '"Key": key_of(key, window)', '"Key": key_of(SessionKey("p", "s"), window)'),
            Edit(sqlite, "[(str(key), window,", '[("p/s", window,'),
        ),
    ),
    Mutant(
        "a bound that is passed",
        test_port.test_of_a_crowd_that_adds_below_a_bound_exactly_those_that_fit_may,
        (
            Edit(dynamodb, "{name} < :most_{name}", "{name} <> :most_{name}"),
            Edit(sqlite, "held.get(name, 0) >= bound", "held.get(name, 0) == bound"),
        ),
    ),
    Mutant(
        "a bound at which one more may",
        lambda rig: test_port.test_what_has_reached_its_bound_takes_nothing_more(rig, {"taken_tokens": 5}),
        (
            Edit(dynamodb, "{name} < :most_{name}", "{name} <= :most_{name}"),
            Edit(sqlite, "held.get(name, 0) >= bound", "held.get(name, 0) > bound"),
        ),
    ),
    Mutant(
        "one bound of several",
        lambda rig: test_port.test_what_has_reached_its_bound_takes_nothing_more(rig, {"a": 9, "taken_tokens": 5}),
        (
            Edit(dynamodb, '" AND ".join(free)', '" OR ".join(free)'),
            Edit(sqlite, "if any(held", "if all(held"),
        ),
    ),
    Mutant(
        "added once, sent again",
        lambda rig: test_port.test_what_is_added_once_is_never_added_twice(rig, Fault.REPLY_LOST),
        (Edit(dynamodb, "NOT_APPLIED if once else PASSING", "PASSING"),),
    ),
    Mutant(
        "eventually consistent read",
        test_wire.test_the_read_is_strongly_consistent,
        (Edit(dynamodb, "ConsistentRead=True,\n            Limit", "ConsistentRead=False,\n            Limit"),),
    ),
    Mutant(
        "eventually consistent numbers",
        test_wire.test_numbers_are_one_strongly_consistent_query,
        (Edit(dynamodb, "ConsistentRead=True,\n        )", "ConsistentRead=False,\n        )"),),
    ),
)
