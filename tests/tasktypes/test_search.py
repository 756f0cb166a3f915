"""The fields that a type lets people search by are checked at its declaration."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict

from sytq import task


class Customer(BaseModel):
    id: str


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Order(BaseModel):
    order_id: int
    customer: Customer
    other: Open
    free: dict[str, str]


def test_fields_of_the_payload_are_taken() -> None:
    task("order", payload=Order, search=["order_id", "customer.id", "other.any", "free.any"])


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (
            ["order"],
            "task type 'order': search 'order' is not in the payload; Order has order_id, customer, other, free",
        ),
        (["customer.name"], "search 'customer.name' is not in the payload; Customer has id"),
        ("order_id", "search 'order_id' is not valid; valid: a list of names"),
        (["order id"], "search 'order id' is not valid"),
        (["free.."], "search 'free..' is not valid"),
        ([7], "search 7 is not valid"),
        (["free." + ".".join(["x" * 60] * 3)], "is longer than 120 characters"),
    ],
)
def test_another_field_is_refused_with_what_is_valid(search: list[str], said: str) -> None:
    with pytest.raises(ValueError) as error:
        task("order", payload=Order, search=search)
    assert said in str(error.value)
