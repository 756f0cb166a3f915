"""Submitting a first task with curl and PHP, as `sytq dev` prints it and the README shows it; a test runs both."""

from __future__ import annotations

import shlex

_PROMPT = "What is an oak table of 1920 in good condition worth?"

_CURL = """\
id=$(curl -sS{login} -H 'Content-Type: application/json' -d '{{"prompt": "{prompt}"}}' \\
    {api}/api/v1/tasks/llm | tee /dev/stderr | sed 's/.*"task_id": *"\\([^"]*\\)".*/\\1/')
curl -sS{login} {api}/api/tasks/$id
curl -sS{login} -H 'Prefer: wait=60' {api}/v2/tasks/$id
"""

_PHP = """\
php <<'PHP'
<?php
function call(string $path, ?array $body = null): array
{{
    $http = ['header' => ['Content-Type: application/json'{login}]];
    if ($body !== null) {{
        $http += ['method' => 'POST', 'content' => json_encode($body)];
    }}
    $answer = file_get_contents('{api}' . $path, false, stream_context_create(['http' => $http]));
    return json_decode($answer !== false ? $answer : exit(1), true); // PHP has said why there is none
}}

$task = call('/api/v1/tasks/llm', ['prompt' => '{prompt}']);
do {{
    usleep(500000);
    $status = call("/api/tasks/{{$task['task_id']}}")['data']['status'];
    echo $task['task_id'], ' ', $status, PHP_EOL;
}} while (!in_array($status, ['completed', 'failed', 'archived'], true));

$task = call("/v2/tasks/{{$task['task_id']}}");
echo $task['result']['report'] ?? $task['error'], PHP_EOL;
PHP
"""


def curl(api: str, user: str | None = None) -> str:
    """Commands that submit a prompt, query its status and wait for its report; a `user` is asked for the password."""
    return _CURL.format(api=api, prompt=_PROMPT, login=f" -u {shlex.quote(user)}" if user else "")


def php(api: str, user: str | None = None) -> str:
    """A script that submits a prompt and prints its report; with a `user`, the password is in SYTQ_PASSWORD."""
    quoted = (user or "").replace("\\", "\\\\").replace("'", "\\'")
    login = f", 'Authorization: Basic ' . base64_encode('{quoted}:' . getenv('SYTQ_PASSWORD'))" if user else ""
    return _PHP.format(api=api, prompt=_PROMPT, login=login)
