"""Known vulnerabilities in the locked dependencies, as OSV (PyPI's advisories and GitHub's) knows them: `make audit`.

Exit 1 when there are some. What could not be asked about is said, never taken for safe: then (without the network, say)
exit 0, or 3 with STRICT=1. OSV_URL names a mirror of https://api.osv.dev/v1/query.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"


def ask(lock: Path) -> tuple[list[dict[str, object]], str]:
    """What pip-audit found out about each dependency; nothing, and why, where it found out nothing."""
    program = Path(sys.executable).with_name("pip-audit")
    command = [program, "-r", lock, "--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]
    command += ["-s", "osv", *(["--osv-url", os.environ["OSV_URL"]] if os.environ.get("OSV_URL") else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        return json.loads(done.stdout)["dependencies"], ""
    except ValueError:
        return [], (done.stderr.strip() or "no answer").splitlines()[-1][:300]


def main() -> int:
    lock = Path(sys.argv[1]) if len(sys.argv) > 1 else LOCK
    locked = sum(1 for line in lock.read_text().splitlines() if line and line[0] != "#")
    answers, problem = ask(lock)
    known = [one for one in answers if "skip_reason" not in one]
    for one in known:
        for found in one["vulns"]:  # type: ignore[attr-defined]
            mended = f"mended in {', '.join(found['fix_versions'])}" if found["fix_versions"] else "not mended yet"
            print(f"{one['name']} {one['version']}: {found['id']}, {mended}", file=sys.stderr)
    if any(one["vulns"] for one in known):
        return 1
    if len(known) >= locked:
        print(f"no known vulnerabilities in the {locked} dependencies of {lock.name}")
        return 0
    for reason in [problem] if problem else [str(one["skip_reason"]) for one in answers if "skip_reason" in one][:3]:
        print(reason, file=sys.stderr)
    print(
        f"{locked - len(known)} of the {locked} dependencies of {lock.name} could not be asked about:", file=sys.stderr
    )
    print("nothing is known about them, and that is not to say that they are safe", file=sys.stderr)
    return 3 if os.environ.get("STRICT") == "1" else 0


if __name__ == "__main__":
    sys.exit(main())
