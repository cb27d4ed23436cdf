// Web sites of the fake internet (`internet.py`), for unmodified clients: HTTP/1 and HTTP/2, over TLS or
// not, as the client asks. `websites.rs` starts it: `node sites.mjs DIRECTORY CERTIFICATE KEY`.
//
// `DIRECTORY/HOST/PATH` is served as `HOST/PATH`, `DIRECTORY/git` by git's own HTTP backend as
// `github.com`. Each request is a line of `DIRECTORY/requests`, written before it is answered.

import { spawn } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import path from "node:path";

const [directory, certificate, key] = process.argv.slice(2);
// Where `internet.py` passes connections to ports 80 and 443 on.
const PORTS = { plain: 18080, tls: 18443 };
const BACKEND = "/usr/lib/git-core/git-http-backend";
const TYPES = { ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".json": "application/json" };

const log = fs.openSync(path.join(directory, "requests"), "a");

function serve(request, response) {
  const authority = request.authority ?? request.headers[":authority"] ?? request.headers.host ?? "";
  const host = authority.split(":")[0];
  const seen = {
    version: request.httpVersion,
    method: request.method,
    url: host + request.url,
    sni: request.socket.servername || null,
    agent: request.headers["user-agent"] ?? null,
  };
  fs.writeSync(log, JSON.stringify(seen) + "\n");
  // HTTP/3 is offered, and to be had of `http3_server.py` only.
  response.setHeader("Alt-Svc", 'h3=":443"; ma=3600');
  const url = new URL(request.url, `http://${host}`);
  if (host === "github.com") {
    git(url, request, response);
  } else {
    file(host, url, request, response);
  }
}

function file(host, url, request, response) {
  // A URL has no `..` left.
  let found = path.join(directory, host, decodeURIComponent(url.pathname));
  if (fs.statSync(found, { throwIfNoEntry: false })?.isDirectory()) {
    found = path.join(found, "index.html");
  }
  if (!fs.existsSync(found)) {
    response.statusCode = 404;
    response.end();
    return;
  }
  const bytes = fs.readFileSync(found);
  response.setHeader("Content-Type", TYPES[path.extname(found)] ?? "application/octet-stream");
  response.setHeader("Content-Length", bytes.length);
  response.end(request.method === "HEAD" ? undefined : bytes);
}

// CGI (RFC 3875), as much of it as the backend needs.
function git(url, request, response) {
  const env = {
    PATH: process.env.PATH,
    GIT_HTTP_EXPORT_ALL: "1",
    GIT_PROJECT_ROOT: path.join(directory, "git"),
    // Whoever serves need not be who made the repository.
    GIT_CONFIG_COUNT: "1",
    GIT_CONFIG_KEY_0: "safe.directory",
    GIT_CONFIG_VALUE_0: "*",
    GIT_PROTOCOL: request.headers["git-protocol"] ?? "",
    HTTP_CONTENT_ENCODING: request.headers["content-encoding"] ?? "",
    CONTENT_TYPE: request.headers["content-type"] ?? "",
    PATH_INFO: url.pathname,
    QUERY_STRING: url.search.slice(1),
    REMOTE_ADDR: "192.0.2.1",
    REQUEST_METHOD: request.method,
  };
  const backend = spawn(BACKEND, { env, stdio: ["pipe", "pipe", "inherit"] });
  request.pipe(backend.stdin);
  const answer = [];
  backend.stdout.on("data", (data) => answer.push(data));
  backend.on("close", () => {
    const bytes = Buffer.concat(answer);
    const end = bytes.indexOf("\r\n\r\n");
    for (const line of bytes.toString("latin1", 0, end).split("\r\n")) {
      const [name, value] = line.split(": ");
      if (name === "Status") {
        response.statusCode = Number.parseInt(value, 10);
      } else {
        response.setHeader(name, value);
      }
    }
    response.end(bytes.subarray(end + 4));
  });
}

const tls = { allowHTTP1: true, cert: fs.readFileSync(certificate), key: fs.readFileSync(key) };
http.createServer(serve).listen(PORTS.plain, "127.0.0.1", () => {
  http2.createSecureServer(tls, serve).listen(PORTS.tls, "127.0.0.1", () => console.log("ready"));
});
