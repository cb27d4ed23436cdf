// The official TypeScript SDK 1.x: `typescript_v1.mjs COMMAND ARG…` starts the server.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";

import { drive, listChanged, server, tell } from "./driver.mjs";

const [command, ...args] = process.argv.slice(2);
const transport = new StdioClientTransport(server(command, args));
const client = new Client({ name: "typescript-v1", version: "1" }, { listChanged });
// This generation keeps the version to itself, and hands it to its transport.
transport.setProtocolVersion = (version) => (transport.version = version);
await client.connect(transport);
tell("ready", { protocol: transport.version, server: client.getServerVersion().name });
await drive(client, (params, options) => client.callTool(params, undefined, options));
