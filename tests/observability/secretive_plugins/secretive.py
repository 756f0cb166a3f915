"""Task types that fail with secrets in their variables and messages."""

from pydantic import BaseModel

from sytq import AsyncContext, Backoff, Context, Fail, task

THREE = Backoff(first="100ms", factor=1, max_attempts=3, jitter=0)


class Secretive(BaseModel):
    prompt: str
    key: str


@task("careless", payload=Secretive, queue="gentle", retry=THREE)
async def careless(ctx: AsyncContext, secret: Secretive) -> None:
    prompt, key = secret.prompt, secret.key
    raise ValueError(f"cannot answer {prompt} with {key}")


@task("careless-plain", payload=Secretive, queue="plain", retry=THREE)
def careless_plain(ctx: Context, secret: Secretive) -> None:
    headers = {"Authorization": f"Bearer {secret.key}"}
    raise KeyError(secret.prompt, headers)


@task("reasonable", payload=Secretive, queue="gentle", retry=THREE)
async def reasonable(ctx: AsyncContext, secret: Secretive) -> None:
    raise Fail("the customer has no account")


@task("logging", payload=Secretive, queue="gentle", retry=THREE)
async def logs_and_goes_on(ctx: AsyncContext, secret: Secretive) -> None:
    try:
        raise ValueError(secret.prompt)
    except ValueError:
        ctx.log.exception("handled")
