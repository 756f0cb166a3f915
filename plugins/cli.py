"""The commands that the built-in plugins add to `sytq`. Imports none of them: `sytq --help` imports this file."""

from sytq import Command

spend = Command("Observability", "sytq_plugins.llm.command:spend", "Show calls, tokens and cost of providers.")
webhook = Command("Integrations", "sytq_plugins.webhook.command:app", "Test a webhook receiver.")
