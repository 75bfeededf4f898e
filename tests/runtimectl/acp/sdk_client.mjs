// Drives an agent with the TypeScript SDK, and prints what it saw as one JSON object.
// Usage: node sdk_client.mjs COMMAND [ARGUMENT...]
import { spawn } from "node:child_process";
import { Readable, Writable } from "node:stream";
import * as acp from "@agentclientprotocol/sdk";

const [command, ...options] = process.argv.slice(2);
const agent = spawn(command, options, { stdio: ["pipe", "pipe", "inherit"] });
const seen = { updates: [], asked: [] };
const client = acp
  .client({ name: "tests" })
  .onNotification(acp.methods.client.session.update, ({ params }) => {
    seen.updates.push(params.update);
  })
  .onRequest(acp.methods.client.session.requestPermission, ({ params }) => {
    seen.asked.push(params.toolCall.title);
    return { outcome: { outcome: "selected", optionId: params.options[0].optionId } };
  });
const stream = acp.ndJsonStream(Writable.toWeb(agent.stdin), Readable.toWeb(agent.stdout));
const prompt = [{ type: "text", text: "go" }];

await client.connectWith(stream, async (context) => {
  const { initialize, session } = acp.methods.agent;
  const begin = { cwd: process.cwd(), mcpServers: [] };
  seen.initialized = await context.request(initialize, { protocolVersion: acp.PROTOCOL_VERSION, clientCapabilities: {} });
  const { sessionId } = await context.request(session.new, begin);
  seen.first = await context.request(session.prompt, { sessionId, prompt });
  seen.live = seen.updates.splice(0);
  await context.request(session.load, { sessionId, ...begin });
  seen.loaded = seen.updates.splice(0);
  seen.failed = await context.request(session.prompt, { sessionId, prompt }).catch((error) => error.message);
  await context.request(session.delete, { sessionId });
});
agent.stdin.end();
await new Promise((resolve) => agent.on("exit", (code) => resolve((seen.exit = code))));
console.log(JSON.stringify(seen));
