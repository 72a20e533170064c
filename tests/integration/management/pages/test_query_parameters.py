"""A query parameter that a path does not have is refused: a misspelt `dryRun` must not be a real order."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("query", ["dryrun=true", "dry_run=true", "nope=1"])
async def test_an_unknown_query_parameter_changes_nothing(client, external, query):
    refused = await client.post(f"/manage/v1/external-services?{query}", json=external())
    assert (refused.status_code, refused.json()["param"]) == (400, query.partition("=")[0])
    assert "dryRun" in refused.json()["nextStep"]
    assert (await client.get("/manage/v1/external-services")).json()["items"] == []


async def test_the_right_ones_pass_and_too_large_numbers_are_refused(client, external):
    assert (await client.post("/manage/v1/external-services?dryRun=true", json=external())).status_code == 200
    assert (await client.get("/manage/v1/events?after=2147483648")).status_code == 400
    assert (await client.get("/manage/v1/events?after=2147483647")).status_code == 200
