// The official TypeScript SDK 1.x: `typescript_v1.mjs COMMAND ARG…` starts the server, and
// `typescript_v1.mjs URL KEY` connects to it.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport as Stdio } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport as Http } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

import { drive, listChanged, tell, transport } from "./driver.mjs";

const [command, ...args] = process.argv.slice(2);
const way = transport({ Stdio, Http }, command, args);
const client = new Client({ name: "typescript-v1", version: "1" }, { listChanged });
// This generation keeps the version to itself, and hands it to its transport.
const set = way.setProtocolVersion?.bind(way);
way.setProtocolVersion = (version) => {
  way.version = version;
  set?.(version);
};
await client.connect(way);
tell("ready", { protocol: way.version, server: client.getServerVersion().name });
await drive(client, (params, options) => client.callTool(params, undefined, options));
