"""Requests generated from the document, valid and invalid, get a declared response and never a 5xx.

schemathesis and its cases are built inside the tests: at collection each process of a parallel run would pay for all.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, settings

from sytq.ledger.database import is_mysql
from tests.installation import BUILT_IN, ENGINES, Installation
from tests.processes import ROOT

#: test_document asserts that the committed document is the served one.
DOCUMENT = ROOT / "docs" / "openapi.json"
METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
OPERATIONS = [
    (method, path)
    for path, methods in json.loads(DOCUMENT.read_text("utf-8"))["paths"].items()
    for method in METHODS
    if method in methods
]


@functools.cache
def schema() -> Any:
    import schemathesis
    from schemathesis.checks import load_all_checks

    load_all_checks()
    return schemathesis.openapi.from_path(DOCUMENT)


@pytest.fixture(scope="module", params=ENGINES)
def api(request: pytest.FixtureRequest, start_shared: Callable[..., Installation]) -> Installation:
    """An API of this module alone, for each engine in turn: generated requests change everything."""
    mysql = request.getfixturevalue("mysql_server") if request.param == "mysql" else None
    return start_shared(f"generated-{request.param}", mysql, **BUILT_IN)


@pytest.fixture(scope="module", autouse=True)
def no_request_logs_a_traceback(api: Installation) -> Iterator[None]:
    before = len(api.gunicorn.text())
    yield
    assert "Traceback" not in api.gunicorn.text()[before:]


def is_sampled(case: Any, seen: Counter[tuple[object, ...]]) -> bool:
    """Whether a case is among the first ten of its kind, or the tenth after the last one.

    Submissions have 2,200 systematic cases, most of them one wrong type for each field of each payload.
    """
    from schemathesis.generation.meta import TestPhase

    if case.meta is None or case.meta.phase.name != TestPhase.COVERAGE:
        return True
    kind = (case.meta.generation.mode, case.meta.phase.data.scenario, case.media_type)
    seen[kind] += 1
    return seen[kind] <= 10 or seen[kind] % 10 == 0


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_responses_conform_to_the_document(method: str, path: str, api: Installation) -> None:
    from schemathesis.checks import CHECKS
    from schemathesis.generation.feedback import NO_FEEDBACK
    from schemathesis.pytest._test_builder import build_operation_test  # what its own parametrization calls

    operation = schema()[path][method]
    # What JSON Schema cannot say (the query language, URLs that may be reached) makes good data be refused.
    excluded = [CHECKS.get_one("positive_data_acceptance")]
    if path in ("/v2/tasks", "/v2/tasks/batch"):
        # The type decides how strict its payload is; each task of a batch is validated on its own.
        excluded.append(CHECKS.get_one("negative_data_rejection"))
    # MySQL gets each wrong value of each field, in single submissions: its columns are the strict ones.
    every = path != "/v2/tasks/batch" and is_mysql(api.runtime.database)
    seen: Counter[tuple[object, ...]] = Counter()
    asked = []
    session = requests.Session()
    session.trust_env = False

    @settings(
        max_examples=12,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    def conform(case: Any) -> None:
        if not (every or is_sampled(case, seen)):
            return
        response = case.call(base_url=f"http://127.0.0.1:{api.port}", session=session, timeout=90)
        asked.append(response.status_code)
        if response.status_code != 414:  # gunicorn's own answer, before there is a request
            case.validate_response(response, excluded_checks=excluded)

    build_operation_test(
        config=schema().config, operation=operation, test_func=conform, given_kwargs={}, feedback=NO_FEEDBACK
    )()
    session.close()
    assert asked
