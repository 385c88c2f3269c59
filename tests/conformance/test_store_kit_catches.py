"""The kit for stores can fail: stores that are broken in one place each, and the case that finds it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import Rail402Error
from rail402.stores import MemoryStore, SqliteStore, Store
from rail402.testing import store_charges, store_processes
from rail402.testing.store_support import NOW
from rail402.testing.store_work import Opener, Race, Worker
from rail402.testing.stores import StoreConformance
from tests.conformance import broken_stores

_HOUR = 3600


# --- each of them is caught


@dataclass(frozen=True)
class Defect:
    """What is broken, the case that finds it as pytest names it, and what else the case is given."""

    broken: Callable[..., Store]
    case: str
    given: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        name = getattr(self.broken, "__name__", "Sqlite")
        return "-".join([name, self.case.removeprefix("test_"), *map(str, self.given.values())])


DEFECTS = [
    Defect(broken_stores.StoresOneKey, "test_claimed_charge_is_found_by_each_of_its_keys"),
    Defect(broken_stores.FoldsCase, "test_keys_are_compared_exactly"),
    Defect(broken_stores.FoldsAccents, "test_keys_are_compared_exactly"),
    Defect(broken_stores.LosesAField, "test_every_field_comes_back"),
    Defect(broken_stores.ClaimsInTwoSteps, "test_of_200_claims_of_one_key_one_is_won"),
    Defect(broken_stores.ClaimsInTwoSteps, "test_overlapping_key_sets_are_claimed_whole_or_not_at_all"),
    Defect(broken_stores.LooksAtOneKey, "test_overlapping_key_sets_are_claimed_whole_or_not_at_all"),
    Defect(broken_stores.KeepsWhatLost, "test_lost_claim_leaves_nothing_behind"),
    Defect(broken_stores.FindsTheNewest, "test_keys_of_two_charges_find_the_older"),
    Defect(broken_stores.Overwrites, "test_second_charge_of_an_id_is_refused"),
    Defect(broken_stores.ClaimsKeysLater, "test_cancelled_claim_is_made_whole_or_not_at_all"),
    Defect(broken_stores.NeverCounts, "test_save_counts_the_version_and_is_read_at_once"),
    Defect(broken_stores.IgnoresVersions, "test_stale_save_changes_nothing"),
    Defect(broken_stores.KeepsTheResponseFirst, "test_stale_save_changes_nothing"),
    Defect(broken_stores.SavesInTwoSteps, "test_of_50_saves_of_one_version_one_succeeds"),
    Defect(broken_stores.Inserts, "test_save_of_an_unknown_charge_is_stale"),
    Defect(broken_stores.GainsNothing, "test_gained_key_is_claimed"),
    Defect(broken_stores.GainsWhatIsFree, "test_save_that_gains_a_taken_key_changes_nothing"),
    Defect(broken_stores.KeepsTheResponseFirst, "test_save_that_gains_a_taken_key_changes_nothing"),
    Defect(broken_stores.GainsInTwoSteps, "test_of_50_charges_that_gain_one_key_one_succeeds"),
    Defect(broken_stores.CutsBodies, "test_response_comes_back_byte_for_byte"),
    Defect(broken_stores.TakesFieldsForADict, "test_response_comes_back_byte_for_byte"),
    Defect(broken_stores.HasOneSlot, "test_response_comes_back_byte_for_byte"),
    Defect(broken_stores.KeepsTheFirst, "test_later_response_takes_the_place_of_the_first"),
    Defect(broken_stores.FindsAnyoneForNobody, "test_unknown_things_are_none"),
    Defect(broken_stores.LeavesRunningOut, "test_unresolved_are_the_open_ones"),
    Defect(broken_stores.IgnoresLeases, "test_unresolved_are_the_open_ones"),
    Defect(broken_stores.OldestChargeFirst, "test_unresolved_are_the_lapsed_ones_oldest_lease_first"),
    Defect(broken_stores.FiltersAfterwards, "test_unresolved_are_those_of_one_gate"),
    Defect(broken_stores.RemembersTheFirstLease, "test_save_moves_a_charge_in_and_out_of_the_unresolved"),
    Defect(broken_stores.ByIdOnly, "test_recent_goes_back_page_by_page"),
    Defect(broken_stores.RepeatsTheLast, "test_recent_goes_back_page_by_page"),
    Defect(broken_stores.SleepsItOut, "test_wait_returns_at_once_where_the_version_differs"),
    Defect(broken_stores.SleepsItOut, "test_wait_wakes_on_a_save"),
    Defect(broken_stores.WakesForAnything, "test_wait_wakes_on_a_save"),
    Defect(broken_stores.WaitsForEver, "test_wait_ends_with_its_time"),
    Defect(broken_stores.GivesUpWithNothing, "test_wait_ends_with_its_time"),
    Defect(broken_stores.TakesInTwoSteps, "test_uses_taken_never_exceed_the_uses"),
    Defect(broken_stores.CountsAVersion, "test_uses_taken_never_exceed_the_uses"),
    Defect(broken_stores.GivesNothingBack, "test_use_given_back_can_be_taken_again"),
    Defect(broken_stores.GivesAnythingBack, "test_a_use_comes_back_once"),
    Defect(broken_stores.NeverLapses, "test_a_use_whose_lease_has_lapsed_comes_back_when_another_is_taken"),
    Defect(broken_stores.LapsesASecondLate, "test_a_use_whose_lease_has_lapsed_comes_back_when_another_is_taken"),
    Defect(broken_stores.EndsWhatHasLapsed, "test_a_use_whose_lease_has_lapsed_comes_back_when_another_is_taken"),
    Defect(broken_stores.RenewsNothing, "test_a_use_that_is_renewed_stays"),
    Defect(broken_stores.RenewsAnything, "test_a_use_that_is_renewed_stays"),
    Defect(broken_stores.RenewsAll, "test_renewing_a_use_leaves_the_others_as_they_are"),
    Defect(broken_stores.ShortensOthers, "test_renewing_a_use_leaves_the_others_as_they_are"),
    Defect(broken_stores.EndsForNothing, "test_a_use_that_was_served_never_comes_back"),
    Defect(broken_stores.IgnoresSlots, "test_one_use_of_a_slot_is_under_way"),
    Defect(broken_stores.TakesFromEveryCharge, "test_only_a_settled_pass_is_used"),
    Defect(broken_stores.SavesItsUses, "test_save_neither_disturbs_the_uses_nor_is_disturbed_by_them"),
    Defect(broken_stores.CountsAVersion, "test_save_neither_disturbs_the_uses_nor_is_disturbed_by_them"),
    Defect(broken_stores.KeepsTheLastResponse, "test_response_of_a_use_is_kept_once"),
    Defect(broken_stores.KeepsItWithoutASlot, "test_response_of_a_use_is_kept_once"),
    Defect(broken_stores.IgnoresSlots, "test_response_of_a_use_is_kept_once"),
    Defect(broken_stores.KeepsItInTheFirstSlot, "test_two_uses_under_way_have_each_its_own_response"),
    Defect(broken_stores.MixesSlotsOfPasses, "test_two_passes_do_not_disturb_each_other"),
    Defect(broken_stores.MixesResponsesOfPasses, "test_two_passes_do_not_disturb_each_other"),
    Defect(broken_stores.MixesNamesOfUses, "test_two_passes_do_not_disturb_each_other"),
    Defect(broken_stores.MixesEndsOfUses, "test_two_passes_do_not_disturb_each_other"),
    Defect(broken_stores.LapsesAllPasses, "test_two_passes_do_not_disturb_each_other"),
    Defect(broken_stores.NoRoom, "test_issued_row_comes_back"),
    Defect(broken_stores.FoldsNames, "test_issued_row_comes_back"),
    Defect(broken_stores.Evicts, "test_capacity_holds_under_concurrency"),
    Defect(broken_stores.CountsTheExpired, "test_expired_rows_do_not_count_and_stay"),
    Defect(broken_stores.Evicts, "test_expired_rows_do_not_count_and_stay"),
    Defect(broken_stores.ReplacesRows, "test_row_that_is_there_is_not_replaced"),
    Defect(broken_stores.RemembersTheLast, "test_first_value_is_everybodys"),
    Defect(broken_stores.FoldsNames, "test_first_value_is_everybodys"),
    Defect(broken_stores.AllLead, "test_of_50_who_would_lead_one_does"),
    Defect(broken_stores.LeadsForEver, "test_leader_leads_until_its_time_has_lapsed"),
    Defect(broken_stores.LeadsNoLonger, "test_leader_that_goes_on_keeps_the_others_out"),
    Defect(broken_stores.AnyoneResigns, "test_leader_resigns"),
    Defect(broken_stores.LeadsForEver, "test_leader_resigns"),
    Defect(broken_stores.OneLeadsAll, "test_names_do_not_disturb_each_other"),
    Defect(broken_stores.FoldsNames, "test_names_do_not_disturb_each_other"),
    Defect(broken_stores.PrunesNoLeaders, "test_lapsed_leadership_is_pruned_and_a_running_one_is_not"),
    Defect(broken_stores.StartsEmpty, "test_bucket_is_full_at_first"),
    Defect(broken_stores.AllOrNothing, "test_what_is_there_is_taken_where_more_is_wanted"),
    Defect(broken_stores.FoldsNames, "test_what_is_there_is_taken_where_more_is_wanted"),
    Defect(broken_stores.GivesTokens, "test_nothing_is_taken_where_nothing_is_wanted"),
    Defect(broken_stores.SpendsInTwoSteps, "test_of_200_who_take_a_token_ten_get_one"),
    Defect(broken_stores.NeverRefills, "test_tokens_come_back_with_time"),
    Defect(broken_stores.FillsOver, "test_bucket_is_never_fuller_than_full"),
    Defect(broken_stores.Rounds, "test_many_small_steps_yield_what_one_long_one_does", {"rate": 0.3}),
    Defect(broken_stores.BelievesClocks, "test_clock_that_goes_back_makes_no_tokens"),
    Defect(broken_stores.RemembersTheLimit, "test_smaller_limit_is_kept_at_once"),
    Defect(broken_stores.PrunesEveryBucket, "test_full_bucket_is_pruned_and_another_is_not"),
    Defect(broken_stores.PrunesAtMost1000, "test_every_full_bucket_goes_however_many_there_are"),
    Defect(broken_stores.PrunesKeysNever, "test_finished_charge_goes_with_all_that_it_had"),
    Defect(broken_stores.PrunesResponsesNever, "test_finished_charge_goes_with_all_that_it_had"),
    Defect(broken_stores.PrunesUsesNever, "test_finished_charge_goes_with_all_that_it_had"),
    Defect(broken_stores.PrunesOnTheDot, "test_newer_charge_stays", {"newer": {"created_at": NOW}}),
    Defect(broken_stores.PrunesByAge, "test_newer_charge_stays", {"newer": {"lease_until": NOW}}),
    Defect(broken_stores.PrunesByAge, "test_newer_charge_stays", {"newer": {"valid_until": NOW + _HOUR}}),
    Defect(broken_stores.PrunesByAge, "test_charge_that_is_written_late_stays"),
    Defect(broken_stores.PrunesRunning, "test_open_charge_stays_forever"),
    Defect(broken_stores.PrunesTheUnknown, "test_open_charge_stays_forever"),
    Defect(broken_stores.PrunesRowsAtOnce, "test_issued_rows_go_an_hour_after_they_expired"),
    Defect(broken_stores.PrunesAtMost1000, "test_every_old_row_goes_however_many_there_are"),
]
"""In one process, with a store of its own."""

DURABLE = [
    Defect(broken_stores.WritesNothing, "test_closed_store_that_starts_again_has_it_all"),
    Defect(broken_stores.WritesNothing, "test_what_was_written_is_there_for_a_new_store"),
    Defect(broken_stores.WritesNoUses, "test_what_was_written_is_there_for_a_new_store"),
    Defect(broken_stores.WritesWhenItCloses, "test_what_was_written_outlives_a_process_that_is_killed"),
    Defect(broken_stores.ReadsOnce, "test_of_200_claims_in_8_processes_one_is_won"),
]
"""On a file."""

BETWEEN: dict[str, Callable[..., Store]] = {
    "claim": broken_stores.ClaimsHere,
    "save": broken_stores.SavesAnything,
    "take_use": broken_stores.TakesHere,
    **{verb: partial(broken_stores.OnlyHere, verb=verb) for verb in ("issue", "lead", "remember", "spend", "wait")},
}
"""By verb: what processes do not share."""

CAUGHT = (AssertionError, pytest.fail.Exception, Rail402Error)
"""How a case fails; Rail402Error where a verb refuses what it must not."""


async def run(case: str, **given: Any) -> None:
    """Run one case of the kit, as pytest would."""
    method = getattr(StoreConformance(), case)
    await method(**{name: given[name] for name in inspect.signature(method).parameters})


def names_a_verb(failure: BaseException) -> bool:
    """Say whether a failure begins with the verbs that broke their promise."""
    return set(str(failure).split(":")[0].split(", ")) <= Store.__dict__.keys()


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
async def test_a_broken_store_is_caught(defect: Defect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_charges, "_SOON", 0.2)
    with pytest.raises(CAUGHT) as caught:
        await run(defect.case, store=defect.broken(), **defect.given)
    assert isinstance(caught.value, Rail402Error) or names_a_verb(caught.value)
    await run(defect.case, store=MemoryStore(), **defect.given)


@pytest.mark.parametrize("defect", DURABLE, ids=str)
async def test_a_store_that_keeps_nothing_is_caught(
    defect: Defect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_processes, "_PROCESSES", 2)
    opener = partial(defect.broken, tmp_path / "charges")
    store = opener()
    await store.start()
    with pytest.raises(AssertionError) as caught:
        await run(defect.case, store=store, anew=opener)
    assert names_a_verb(caught.value)


@pytest.mark.parametrize("verb", BETWEEN)
async def test_a_verb_that_processes_do_not_share_is_caught(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def race_here(anew: Opener, racers: Sequence[Race]) -> list[Any]:
        stores = [anew() for _ in racers]
        for store in stores:
            await store.start()
        answers = await asyncio.gather(*(racer(store) for racer, store in zip(racers, stores, strict=True)))
        for store in stores:
            await store.close()
        return answers

    monkeypatch.setattr(store_processes, "_race", race_here)  # each with a store of its own is as good
    case = "test_of_200_claims_in_8_processes_one_is_won"
    with pytest.raises(AssertionError, match=f"^{verb}: "):
        await run(case, anew=partial(BETWEEN[verb], tmp_path / "broken.db"))
    await run(case, anew=partial(SqliteStore, tmp_path / "sound.db"))


async def test_a_store_that_other_processes_cannot_open_is_caught(tmp_path: Path) -> None:
    opener = partial(SqliteStore, tmp_path / "missing" / "charges.db")
    with pytest.raises(AssertionError, match="another process must be able to open the store"):
        async with Worker.started(opener, Store.close) as worker:
            await worker.open()


def test_every_case_catches_something() -> None:
    cases = {name for name in dir(StoreConformance) if name.startswith("test_")}
    assert cases == {defect.case for defect in (*DEFECTS, *DURABLE)}
