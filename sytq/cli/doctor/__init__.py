"""`sytq doctor`: checks everything that sytq depends on and suggests fixes. Leaves nothing changed."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.console import Console
from rich.text import Text

from sytq.cli.config import warnings
from sytq.cli.doctor.database import database
from sytq.cli.doctor.finding import FAIL, OK, WARN, Check, Finding, examined
from sytq.cli.doctor.host import disk, files, ports
from sytq.cli.doctor.processes import processes
from sytq.cli.doctor.redis import redis
from sytq.cli.doctor.service import plugins, workers
from sytq.cli.options import AsJson, File
from sytq.cli.output import as_json, cell
from sytq.config import load
from sytq.errors import ConfigError
from sytq.observability import logs

_COLOURS = {OK: "green", WARN: "yellow", FAIL: "bold red"}
#: Name -> check. Each runs on its own thread with its own deadline.
_CHECKS = {
    "redis": redis,
    "database": database,
    "plugins": plugins,
    "workers": workers,
    "processes": processes,
    "ports": ports,
    "files": files,
    "disk": disk,
}


def doctor(json_wanted: AsJson = False, file: File = None) -> None:
    """Check configuration, stores, providers, workers and this machine.

    Suggests a fix for each problem. Exits 1 on a failure.
    """
    logs.configure("critical", "console", "cli")  # the findings say the same
    try:
        settings = load(file)
    except ConfigError as error:
        todo = "correct the configuration; once it is valid, `sytq config show` lists every setting"
        found = [Finding("config", FAIL, line, todo) for line in str(error).splitlines()]
    else:
        found = [Finding("config", WARN, said, "see docs/configuration.md") for said in warnings(settings)]
        given = len(settings.origins)
        found = found or [Finding("config", OK, f"valid: {given} given, the others are defaults")]
        checks: dict[str, Check] = dict(_CHECKS)
        for plugin in settings.installed.plugins:
            checks |= plugin.checks(settings) if plugin.checks is not None else {}
        found += examined(checks, settings)
    failed = any(finding.verdict == FAIL for finding in found)
    if json_wanted:
        as_json({"ok": not failed, "checks": [asdict(finding) for finding in found]})
    else:
        _print(found)
    raise typer.Exit(1 if failed else 0)


def _print(found: list[Finding]) -> None:
    console = Console(soft_wrap=True)
    width = max(len(finding.check) for finding in found)
    for finding in found:
        line = Text(f"{finding.verdict:<5}", style=_COLOURS[finding.verdict])
        line.append(f"{finding.check:<{width}}  {cell(finding.said)}", style="default")
        console.print(line)
        if finding.todo:
            console.print(Text(f"{'':{width + 5}}  {cell(finding.todo)}", style="dim"))
    counts = {verdict: sum(finding.verdict == verdict for finding in found) for verdict in (OK, WARN, FAIL)}
    console.print(Text(", ".join(f"{count} {verdict}" for verdict, count in counts.items())))
