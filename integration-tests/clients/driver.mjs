// What the TypeScript clients have in common: commands on stdin, events on stdout.
import { createInterface } from "node:readline";

export function tell(event, fields = {}) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + "\n");
}

/// Passes the news on that the list of tools has changed.
export const listChanged = {
  tools: { autoRefresh: false, debounceMs: 0, onChanged: () => tell("tools_changed") },
};

/// The way to the server that the command line names: it is started in this environment, or it is
/// there already, and asks for a key.
export function transport({ Stdio, Http }, command, args) {
  if (command.startsWith("http://")) {
    const headers = { Authorization: `Bearer ${args[0]}` };
    return new Http(new URL(command), { requestInit: { headers } });
  }
  return new Stdio({ command, args, env: process.env, stderr: "inherit" });
}

/// Does what the test asks for, calls side by side, until there is no more.
export async function drive(client, callTool) {
  const calls = new Map();
  const guarded = async (work, signal, fields = {}) => {
    try {
      await work();
    } catch (error) {
      if (signal?.aborted) tell("cancelled", fields);
      else tell("failed", { error: String(error), ...fields });
    }
  };
  for await (const line of createInterface({ input: process.stdin })) {
    const { op, id, ...command } = JSON.parse(line);
    if (op === "tools") {
      await guarded(async () => tell("tools", { tools: (await client.listTools()).tools }));
    } else if (op === "read") {
      const { uri } = command;
      await guarded(async () =>
        tell("contents", { contents: (await client.readResource({ uri })).contents }),
      );
    } else if (op === "call") {
      const abort = new AbortController();
      calls.set(id, abort);
      const onprogress = ({ progress, message }) => tell("progress", { id, progress, message });
      const options = { signal: abort.signal, ...(command.progress ? { onprogress } : {}) };
      const params = { name: command.tool, arguments: command.arguments };
      const work = async () => tell("result", { id, result: await callTool(params, options) });
      void guarded(work, abort.signal, { id });
    } else if (op === "cancel") {
      calls.get(id).abort("the test cancels");
    }
  }
  await client.close();
}
