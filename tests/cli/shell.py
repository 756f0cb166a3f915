"""`sytq` commands on an installation."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.installation import Installation
from tests.terminal import sytq


def run(installation: Installation, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = sytq(*arguments, environ=installation.environ)
    assert done.returncode == status, done
    assert "Traceback" not in done.stderr
    return done


def found(installation: Installation, *arguments: str) -> Any:
    return json.loads(run(installation, *arguments, "--json").stdout)


def payload(installation: Installation, name: str, seconds: float = 0.0) -> str:
    return json.dumps({"journal": str(installation.journal), "name": name, "seconds": seconds})
