"""Requests generated from the document, valid and invalid, get a declared response and never a 5xx."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS, load_all_checks

from tests.api.conftest import REPO, Api

load_all_checks()
#: What JSON Schema cannot say (the query language, URLs that may be reached) makes good data be refused.
GOOD_DATA = CHECKS.get_one("positive_data_acceptance")
BAD_DATA = CHECKS.get_one("negative_data_rejection")


#: test_document asserts that the committed document is the served one.
DOCUMENT = schemathesis.openapi.from_path(REPO / "docs" / "openapi.json")


@DOCUMENT.parametrize()
@settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
def test_responses_conform_to_the_document(case: Any, api: Api) -> None:
    excluded = [GOOD_DATA]
    if case.operation.path in ("/v2/tasks", "/v2/tasks/batch"):
        excluded.append(
            BAD_DATA
        )  # the type decides how strict its payload is; each task of a batch is validated on its own
    response = case.call(base_url=f"http://127.0.0.1:{api.port}", timeout=90)
    if response.status_code != 414:  # gunicorn's own answer, before there is a request
        case.validate_response(response, excluded_checks=excluded)


def test_no_request_logs_a_traceback(api: Api) -> None:
    assert "Traceback" not in api.log()
