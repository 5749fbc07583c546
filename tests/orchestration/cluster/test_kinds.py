"""Jobs of all operators are seen by who must know of all."""

from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from orchestration.cluster.jobs import Jobs


class Api:
    """The API server's part for custom objects, of a cluster with both operators and a job of each."""

    def __init__(self, forbidden: str = "") -> None:
        self._forbidden = forbidden

    def get_api_resources(self, group: str, version: str) -> Any:
        return SimpleNamespace(resources=[SimpleNamespace(name="pytorchjobs"), SimpleNamespace(name="trainjobs")])

    def list_namespaced_custom_object(self, group: str, version: str, namespace: str, plural: str, **_: Any) -> Any:
        if plural == self._forbidden:
            raise ApiException(403)
        return {"items": [plural]}


def test_what_a_job_of_the_other_operator_begins_from_is_seen_whichever_is_wanted() -> None:
    jobs = Jobs(Api(), "here", "pytorchjob")  # type: ignore[arg-type]
    assert jobs.all() == ["pytorchjobs"]
    assert jobs.of_every_kind() == ["pytorchjobs", "trainjobs"]


def test_who_may_not_see_all_kinds_of_jobs_does_not_know_of_all() -> None:
    jobs = Jobs(Api(forbidden="trainjobs"), "here", "auto")  # type: ignore[arg-type]
    assert jobs.all() == ["pytorchjobs"]
    with pytest.raises(ApiException):
        jobs.of_every_kind()
