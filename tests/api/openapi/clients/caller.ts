// Uses the generated types of TypeScript with what is required alone; type-checked by test_clients.

import createClient from "openapi-fetch";
import type { components, paths } from "./client";

const client = createClient<paths>({ baseUrl: "http://127.0.0.1:8080" });
const hook: components["schemas"]["NewTask"] = { type: "webhook", payload: { url: "https://example.com/hook" } };
const tasks: components["schemas"]["NewTask"][] = [
  hook,
  { type: "default" },
  { type: "llm", payload: { table_name: "valuation_records", id: 1 } },
  { type: "email", payload: { to: ["a@example.com"], subject: "s", text: "t" } },
  { type: "report", payload: {}, then: [{ type: "default" }], callback: { url: "https://example.com/ended" } },
  { type: "cleanup", delay: "2h", metadata: { order: 7 } },
];
await client.POST("/v2/tasks", { body: hook, params: { header: { Prefer: "wait=5", "Idempotency-Key": "k" } } });
await client.POST("/v2/tasks/batch", { body: { tasks } });
await client.POST("/v2/operations", { body: { action: "retry", q: "state:dead" } });
await client.POST("/api/v1/tasks/llm", { body: { prompt: "p" } });
await client.POST("/api/v1/tasks", { body: { url: "https://example.com/hook" } });
await client.POST("/api/tasks/llm", { body: { table_name: "valuation_records", id: 1 } });
await client.GET("/api/tasks", { params: { query: { status: "failed", limit: 5 } } });

const params = { path: { task_id: "0" } };
await client.POST("/v2/tasks/{task_id}/cancel", { params });
await client.POST("/v2/tasks/{task_id}/cancel", { params, body: {} });
await client.POST("/v2/tasks/{task_id}/reschedule", { params, body: { delay: "2h" } });
const { data, error } = await client.GET("/v2/tasks/{task_id}", { params });
if (data === undefined) {
  throw new Error(error.detail);
}
const seen: [string, string | null, boolean, number] = [data.state, data.error, data.held, data.steps.length];
const result: unknown = data.result;

const types = await client.GET("/v2/types");
const names: string[] = types.data?.types.map((known) => known.type) ?? [];
const stats = await client.GET("/stats");
const submitted: number = stats.data?.jobs_submitted ?? 0;
export { names, result, seen, submitted };
