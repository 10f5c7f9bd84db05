#!/usr/bin/env node
// A `solc` for tools that expect the native compiler: `--version` and `--standard-json` over the npm package (wasm).
// Why not solcjs: its --standard-json exits before a pipe has drained, which cuts long answers; here writes are synchronous.
"use strict";
const fs = require("fs");
const path = require("path");

const modules = process.env.KOINON_NODE_MODULES || path.join(__dirname, "..", "node_modules");
const solc = require(path.join(modules, "solc"));

const args = process.argv.slice(2);
const folders = [];
for (let i = 0; i < args.length; i++) {
  if (args[i] === "--base-path" || args[i] === "--include-path") folders.push(args[++i]);
}
folders.push(process.cwd(), modules);

// Sources that the input names without inlining them (forge does so) are read from the given folders.
function readImport(name) {
  for (const candidate of [name, ...folders.map((folder) => path.join(folder, name))]) {
    try {
      return { contents: fs.readFileSync(candidate, "utf8") };
    } catch (error) {
      if (error.code !== "ENOENT" && error.code !== "EISDIR" && error.code !== "ENOTDIR") throw error;
    }
  }
  return { error: "File not found: " + name };
}

function writeAll(text) {
  const bytes = Buffer.from(text);
  for (let offset = 0; offset < bytes.length; ) {
    try {
      offset += fs.writeSync(1, bytes, offset);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error; // a full pipe: try again until the reader has caught up
    }
  }
}

if (args.includes("--version")) {
  writeAll("solc, the solidity compiler commandline interface\nVersion: " + solc.version() + "\n");
} else if (args.includes("--standard-json")) {
  writeAll(solc.compile(fs.readFileSync(0, "utf8"), { import: readImport }));
} else {
  process.stderr.write("solc.js speaks --version and --standard-json only, not: " + args.join(" ") + "\n");
  process.exitCode = 2;
}
