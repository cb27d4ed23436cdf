// The official TypeScript SDK 2.x: `typescript_v2.mjs MODE COMMAND ARG…` starts the server, and
// `typescript_v2.mjs MODE URL KEY` connects to it. The mode is the library's: `legacy` speaks by
// `initialize`, `auto` finds out what the server speaks.
import { Client, StreamableHTTPClientTransport as Http } from "@modelcontextprotocol/client";
import { StdioClientTransport as Stdio } from "@modelcontextprotocol/client/stdio";

import { drive, listChanged, tell, transport } from "./driver.mjs";

const [mode, command, ...args] = process.argv.slice(2);
const options = { listChanged, versionNegotiation: { mode } };
const client = new Client({ name: "typescript-v2", version: "1" }, options);
await client.connect(transport({ Stdio, Http }, command, args));
const protocol = client.getNegotiatedProtocolVersion();
tell("ready", { protocol, server: client.getServerVersion().name });
await drive(client, (params, options) => client.callTool(params, options));
