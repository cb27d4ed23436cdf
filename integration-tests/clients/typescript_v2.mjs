// The official TypeScript SDK 2.x: `typescript_v2.mjs MODE COMMAND ARG…` starts the server. The mode is
// the library's: `legacy` speaks by `initialize`, `auto` finds out what the server speaks.
import { Client } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";

import { drive, listChanged, server, tell } from "./driver.mjs";

const [mode, command, ...args] = process.argv.slice(2);
const options = { listChanged, versionNegotiation: { mode } };
const client = new Client({ name: "typescript-v2", version: "1" }, options);
await client.connect(new StdioClientTransport(server(command, args)));
const protocol = client.getNegotiatedProtocolVersion();
tell("ready", { protocol, server: client.getServerVersion().name });
await drive(client, (params, options) => client.callTool(params, options));
