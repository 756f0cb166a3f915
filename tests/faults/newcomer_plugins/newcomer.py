"""A task type that the previous release does not have, on a queue that it consumes."""

from pydantic import BaseModel

from sytq import AsyncContext, task


class News(BaseModel):
    url: str


@task("newcomer", payload=News, queue="webhook")
async def newcomer(ctx: AsyncContext, news: News) -> None:
    """Report that it ran."""
    await ctx.http.post(news.url)
