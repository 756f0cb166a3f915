"""Task types with nested payloads."""

from pydantic import BaseModel, Field

from sytq import task


class Item(BaseModel):
    sku: str = Field(min_length=1)
    price: float = Field(gt=0)


class Order(BaseModel):
    number: int
    items: list[Item] = []
    note: str | None = None


@task("order", payload=Order, queue="orders")
async def order(ctx, payload): ...


@task("count", payload=Order, queue="orders")
async def count(ctx, payload): ...


@task("inner", payload=Order, internal=True)
async def inner(ctx, payload): ...


@task("sweep", payload=Order, admin_only=True)
async def sweep(ctx, payload): ...
